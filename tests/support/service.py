"""`provision serve` in a process of its own, for the tests of it and of those that ask it for a grant."""

import json
import os
import signal
import subprocess
import sys
import time


class Service:
    """A service of `running`, a store, for one place in it (s3://BUCKET/PREFIX); its files go below `folder`.

    `log` is what it printed, `state` its folder of keys.
    """

    def __init__(self, running, place, state, folder, *flags):
        self.log, errors = folder / "service.log", folder / "service.err"
        keys = {"AWS_ACCESS_KEY_ID": running.access_key, "AWS_SECRET_ACCESS_KEY": running.secret_key}
        words = ["serve", "--json", "--store", place, "--endpoint-url", running.endpoint_url, "--port", "0", *flags]
        with self.log.open("wb") as out, errors.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "provisioner", *words],
                stdout=out,
                stderr=err,
                env={**os.environ, **keys, "FREEPOST_STATE_DIR": str(state)},
            )
        try:
            until = time.monotonic() + 30
            while not self.log.read_text().endswith("\n"):
                assert self.process.poll() is None, errors.read_text()
                assert time.monotonic() < until
                time.sleep(0.05)  # it says that it listens by a line of its log, which is a file: a pipe would fill up
        except BaseException:
            self.kill()
            raise

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

    def kill(self):
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
