"""Fixtures of the signing service: one in a process of its own, on the session's store, and tokens for it."""

import contextlib

import pytest

from provisioner.cli import app
from tests.support.service import Service


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The service's own folder of keys."""
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "serve"


@pytest.fixture
def serve(store, bucket, state, tmp_path):
    """Start a service for the test's bucket, prefix p, with more flags if asked."""
    with contextlib.ExitStack() as stack:

        def start(*flags, prefix="p"):
            service = Service(store, f"s3://{bucket}/{prefix}", state.parent, tmp_path, *flags)
            stack.callback(service.kill)
            return service

        yield start


@pytest.fixture
def mint(bucket, state, capfd):
    """Make a token with the command: for the test's bucket, a prefix, and more flags."""

    def made(prefix="p/run/", *flags):
        capfd.readouterr()
        words = flags if "--methods" in flags else ("--methods", "GET,PUT,POST", *flags)
        assert app.main(["token", f"s3://{bucket}/{prefix}", *words]) == 0
        return capfd.readouterr().out.strip()

    return made
