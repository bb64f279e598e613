"""Starts supervisors and ends them: the launcher's side of `supervisor`."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import provisioner
from provisioner.errors import Refused
from provisioner.providers.guest.state_dir import PENDING, Home

_END_SECONDS = 30  # a supervisor that takes longer to clean up is stuck


def start(home: Home) -> subprocess.Popen[bytes]:
    """Start a supervisor; only for one who holds `launching` and knows that there is none."""
    lock = home.lock()
    try:
        home.say(PENDING, "starting")
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        with (home.path / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "provisioner.providers.guest.supervisor", str(home.path), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={**environment, "PYTHONPATH": str(Path(provisioner.__file__).parent.parent)},
                pass_fds=[lock],
            )
    finally:
        os.close(lock)


def outcome(home: Home, launch: subprocess.Popen[bytes]) -> str:
    """Wait until the guest runs; return why it doesn't, and leave nothing of it, so that it may be launched again."""
    with launch:
        assert launch.stdout  # noqa: S101 - for mypy: it is a pipe
        answer = launch.stdout.readline().decode().strip()
    if answer == "up":
        return ""
    wait([home])
    log = home.path / "log"
    failure = answer or log.read_text().strip().rpartition("\n")[2] or "its supervisor ended without a word"
    home.remove()
    return failure


def end(homes: Sequence[Home], number: signal.Signals) -> None:
    """Signal the supervisors that live, and wait for their end."""
    with _pidfds(homes) as descriptors:
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, number)
        _await_all(descriptors)


def wait(homes: Sequence[Home]) -> None:
    """Wait for the end of these supervisors."""
    with _pidfds(homes) as descriptors:
        _await_all(descriptors)


@contextlib.contextmanager
def _pidfds(homes: Sequence[Home]) -> Iterator[list[int]]:
    """Descriptors of the supervisors that live: they can't come to mean another process."""
    descriptors = []
    try:
        for home in homes:
            with contextlib.suppress(ProcessLookupError):
                pid = home.status().get("pid")
                if pid:
                    descriptor = os.pidfd_open(pid)
                    # Alive after the pid was opened: so the pid was still its own.
                    descriptors.append(descriptor) if home.alive() else os.close(descriptor)
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _await_all(descriptors: Sequence[int]) -> None:
    deadline = time.monotonic() + _END_SECONDS
    for descriptor in descriptors:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)  # readable when the process has ended
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise Refused(f"A machine did not end within {_END_SECONDS} s.", hint="See the log in its folder.")
