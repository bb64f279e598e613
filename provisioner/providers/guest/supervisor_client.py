"""Starts supervisors and stops them: the launcher's side of `supervisor`."""

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
from provisioner.providers.guest.commands import last_line, output_of
from provisioner.providers.guest.state_dir import PENDING, StateDir

_END_SECONDS = 30  # a supervisor that takes longer to clean up is stuck


def start(machine: StateDir) -> subprocess.Popen[bytes]:
    """Start a supervisor. Only for a caller inside `exclusive` who knows that there is none."""
    lock = machine.lock_supervisor()
    try:
        machine.set_status(PENDING, "starting")
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        with (machine.path / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "provisioner.providers.guest.supervisor", str(machine.path), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env={**environment, "PYTHONPATH": str(Path(provisioner.__file__).parent.parent)},
                pass_fds=[lock],
            )
    finally:
        os.close(lock)


def await_start(machine: StateDir, launcher: subprocess.Popen[bytes]) -> str:
    """Wait until the guest runs, and return nothing. If it can't run: return why, and remove the machine's folder."""
    with launcher:
        answer = output_of(launcher).readline().decode().strip()
    if answer == "up":
        return ""
    await_end([machine])
    failure = answer or last_line((machine.path / "log").read_bytes(), "its supervisor ended and logged nothing")
    machine.remove()
    return failure


def stop(machines: Sequence[StateDir], number: signal.Signals) -> None:
    """Send a signal to the supervisors that live, and wait for their end."""
    with _pidfds(machines) as descriptors:
        for descriptor in descriptors:
            signal.pidfd_send_signal(descriptor, number)
        _await_all(descriptors)


def await_end(machines: Sequence[StateDir]) -> None:
    """Wait for the end of these supervisors."""
    with _pidfds(machines) as descriptors:
        _await_all(descriptors)


@contextlib.contextmanager
def _pidfds(machines: Sequence[StateDir]) -> Iterator[list[int]]:
    """Open descriptors of the supervisors that live: they can't come to mean another process."""
    descriptors = []
    try:
        for machine in machines:
            with contextlib.suppress(ProcessLookupError):
                pid = machine.status().get("pid")
                if pid:
                    descriptor = os.pidfd_open(pid)
                    # Alive after the pid was opened: so the pid was still its own.
                    descriptors.append(descriptor) if machine.is_supervised() else os.close(descriptor)
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
            raise Refused(f"a machine did not end within {_END_SECONDS} s", hint="read the log in its folder")
