"""Fixtures that every suite shares. No fakes: the store is a SeaweedFS server of the test session's own."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from provisioner import cli, embedded, seaweedfs
from provisioner.spec import StoreSpec
from provisioner.store import open_store

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def state_folder():
    """The state folder of the test session's operator, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="freepost-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def store(state_folder):
    """A real store in a folder of its own: an `embedded.Running` (endpoint_url, region, access_key, secret_key, pid).

    Under pytest-xdist each worker has its own. It is killed at the end and leaves neither process, port nor folder.
    """
    server = embedded.EmbeddedStore(state_folder)
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


class Operator:
    """Runs `provision` in this process, as its own user would, on the session's store and the test's bucket."""

    def __init__(self, capfd, bucket):
        self.capfd, self.bucket = capfd, bucket

    def __call__(self, *words):
        """Return what a command gave: `code`, `out` and `err`. A traceback is a failure of the test."""
        self.capfd.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code, out=out, err=err)

    def launch(self, job, *words):
        """`provision launch --local` into the test's bucket."""
        return self("launch", job, "--local", "--set", f"store=s3://{self.bucket}/p", *words)


@pytest.fixture
def provision(monkeypatch, capfd, store, state_folder, bucket):
    """The `provision` command: call it with its words."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FREEPOST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(state_folder))
    return Operator(capfd, bucket)


@pytest.fixture
def opened(store, bucket):
    """The test's bucket as `provisioner.store.Store`, prefix ``p``."""
    spec = StoreSpec(bucket, "p", store.endpoint_url, store.region, "path")
    return open_store(spec, access_key=store.access_key, secret_key=store.secret_key)
