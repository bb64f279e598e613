"""Fixtures that every suite shares. No fakes: the store is a SeaweedFS server of the test session's own."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from provisioner import embedded, seaweedfs

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def store():
    """A real store in a folder of its own: an `embedded.Running` (endpoint_url, region, access_key, secret_key, pid).

    Under pytest-xdist each worker has its own. It is killed at the end and leaves neither process, port nor folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="freepost-test-"))
    server = embedded.EmbeddedStore(folder)
    try:
        running = server.start()
        yield running
        last = server._recorded()
        assert last is not None
        assert last.process.pid == running.pid, "a test replaced the session's store"
        assert server.stop()
        assert not last.process.alive()
        assert seaweedfs.free(last.ports)
        assert not [path for path in seaweedfs.sockets(last.ports) if path.exists()]
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def s3(store):
    """A boto3 S3 client of the store, with the operator's keys."""
    with embedded.connect(store) as client:
        yield client


@pytest.fixture
def bucket(s3):
    """The name of a new, empty bucket of the store, for one test alone."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    return name
