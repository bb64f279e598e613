"""Fixtures that every suite shares. No fakes: the store is a SeaweedFS server of the test session's own.

A whole run is split over three processes (pytest-xdist), file by file; each has its own store and its own leak check.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import botocore.loaders
import botocore.session
import pytest
import requests

from provisioner.cli import app
from provisioner.embedded import seaweedfs
from provisioner.embedded.server import EmbeddedStore, connect
from provisioner.process import read_proc_file
from provisioner.s3.bucket import open_store
from provisioner.s3url import StoreSpec

WORKERS = 3  # most tests wait for other processes rather than compute: three fill two cores
MARK = "TEST_SESSION"  # in the environment of every process that a test starts; FREEPOST_… would not reach the agent
_USED = pytest.StashKey[dict]()  # what the report names: versions, by name
_numbers = itertools.count(1)


def pytest_configure(config):
    """Begin the list of what the tests run against."""
    config.stash[_USED] = {}


@pytest.fixture(scope="session")
def used(request):
    """What the report names, by name: versions."""
    return request.config.stash[_USED]


def pytest_sessionfinish(session):
    """Hand the list of a process of pytest-xdist to the one that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["used"] = session.config.stash[_USED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take in what such a process used; one that died tells nothing."""
    node.config.stash[_USED].update(getattr(node, "workeroutput", {}).get("used", {}))


def pytest_terminal_summary(terminalreporter, config):
    """Name each store, and the browser, with its version."""
    for name, version in sorted(config.stash[_USED].items()):
        terminalreporter.write_line(f"{'browser' if name == 'Chromium' else 'store'}: {name} {version}")


def pytest_xdist_auto_num_workers(config):
    """Split whole runs. Machines are booted one by one, what is measured is measured alone, and a file is no run."""
    whole = all(Path(word).is_dir() for word in config.args)
    quiet = all(f"not {mark}" in config.option.markexpr for mark in ("e2e", "bench", "faults"))
    return WORKERS if whole and quiet else 0


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory):
    """Hold the whole session to leaving neither process nor file: whatever it starts inherits a mark and a folder."""
    tests_own = tmp_path_factory.getbasetemp()
    folder = Path(tempfile.mkdtemp(prefix="freepost-tests-"))
    folder.chmod(0o711)  # some tests act as another user
    mark = f"{MARK}={folder.name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*mark.split("="))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))  # the developer's own store and jobs are out of reach
        patch.setattr(tempfile, "tempdir", None)
        yield
    tempfile.tempdir = None
    processes = _processes([mark, str(folder), str(tests_own)])
    files = sorted(str(path) for path in folder.rglob("*"))
    shutil.rmtree(folder)
    assert not processes, "a test left processes"
    assert not files, "a test left files"


def _processes(signs):
    """Every process that has one of these in its environment, its arguments or its directory, but this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = b"\0".join([*(read_proc_file(int(process.name), name) for name in ("environ", "cmdline")), b""])
            seen += os.fsencode((process / "cwd").readlink())
        except OSError:  # it has ended, or is someone else's
            continue
        if int(process.name) != os.getpid() and any(os.fsencode(sign) in seen for sign in signs):
            found.append(seen.decode(errors="replace").replace("\0", " "))
    return found


@pytest.fixture(scope="session", autouse=True)
def _models():
    """Let all botocore sessions of the tests read the services' models, which are large, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture
def http():
    """A session of requests that ignores proxies of the environment: servers of tests are on loopback."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture(scope="session")
def state_folder():
    """The state folder of the test session's operator, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="freepost-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def store(state_folder):
    """A real store in a folder of its own: a `Running` (endpoint_url, region, access_key, secret_key, pid).

    Under pytest-xdist each worker has its own. It is killed at the end and leaves neither process, port nor folder.
    """
    server = EmbeddedStore(state_folder)
    try:
        running = server.start()
        yield running
        last = server._recorded()
        assert last is not None
        assert last.process.pid == running.pid, "a test replaced the session's store"
        assert server.stop()
        assert not last.process.alive()
        assert seaweedfs.are_free(last.ports)
        assert not [path for path in seaweedfs.sockets(last.ports) if path.exists()]
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3(store):
    """A boto3 S3 client of the store, with the operator's keys."""
    with connect(store) as client:
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
        code = app.main([str(word) for word in words])
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
    """The test's bucket as `provisioner.s3.bucket.Store`, prefix ``p``."""
    spec = StoreSpec(bucket, "p", store.endpoint_url, store.region, "path")
    return open_store(spec, access_key=store.access_key, secret_key=store.secret_key)
