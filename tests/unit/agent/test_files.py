"""The tar headers of bundles, as Python's own tarfile reads them."""

import io
import os
import tarfile

import pytest

from agent.bundle import header
from agent.files import is_within


@pytest.mark.parametrize(
    "name", [b"a", b"x" * 100, b"y" * 101, b"d/" * 300 + b"\xff\n", b"z" * 511, b"z" * 512], ids=len
)
def test_a_header_is_read_by_tarfile(name):
    """Names of any length and kind, size, time and mode are those that were given."""
    data = os.urandom(1000)
    tar = header(name, len(data), 1_700_000_000.9, 0o100755) + data + bytes(24) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        (member,) = archive.getmembers()
        assert os.fsencode(member.name) == name
        assert (member.size, member.mtime, member.mode) == (1000, 1_700_000_000, 0o755)
        assert archive.extractfile(member).read() == data


@pytest.mark.parametrize(
    ("path", "root", "inside"),
    [("/a/b", "/a", True), ("/a", "/a", True), ("/ab", "/a", False), ("/x", "/", True), ("/", "/a", False)],
)
def test_within(path, root, inside):
    """A path is within a folder only by whole names."""
    assert is_within(path, root) is inside
