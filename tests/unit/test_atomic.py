"""Files that are written whole or not at all."""

import pytest

from provisioner import atomic


def test_a_file_is_replaced_and_is_its_owners_alone(tmp_path):
    """Also one that can't be opened for writing; nothing else is left in the folder."""
    path = tmp_path / "state"
    path.write_text("old")
    path.chmod(0o400)
    atomic.write(path, "nëw")
    assert path.read_bytes() == "nëw".encode()
    assert path.stat().st_mode & 0o777 == 0o600
    atomic.write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_changes_nothing(tmp_path):
    """The old content stays, and nothing of the new one."""
    path = tmp_path / "state"
    path.write_text("old")

    def fail():
        with atomic.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
