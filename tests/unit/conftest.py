"""Fixtures of the signing service: one in a process of its own, on the session's store, and tokens for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from provisioner import cli


class Running:
    """A service in a process of its own; `log` is what it printed."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def events(self):
        """Its log so far, as documents."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def url(self):
        """Where it listens."""
        return self.events()[0]["address"]

    def stop(self):
        """End it as an operator does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


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
            log = tmp_path / "service.log"
            keys = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
            words = ["serve", "--json", "--store", f"s3://{bucket}/{prefix}", "--endpoint-url", store.endpoint_url]
            with log.open("wb") as out, (tmp_path / "service.err").open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "provisioner", *words, "--port", "0", *flags],
                    stdout=out,
                    stderr=errors,
                    env={**os.environ, **keys, "FREEPOST_STATE_DIR": str(state.parent)},
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            until = time.monotonic() + 30
            while not log.read_text().endswith("\n"):
                assert process.poll() is None, (tmp_path / "service.err").read_text()
                assert time.monotonic() < until
                time.sleep(0.05)
            return Running(process, log)

        yield start


@pytest.fixture
def mint(bucket, state, capfd):
    """Make a token with the command: for the test's bucket, a prefix, and more flags."""

    def made(prefix="p/run/", *flags):
        capfd.readouterr()
        words = flags if "--methods" in flags else ("--methods", "GET,PUT,POST", *flags)
        assert cli.main(["token", f"s3://{bucket}/{prefix}", *words]) == 0
        return capfd.readouterr().out.strip()

    return made
