"""A process named by pid and start time, so that a pid which was given to someone else is never mistaken for it.

Linux says both in /proc (proc(5), "stat": field 22, in ticks since boot); elsewhere ``ps`` is asked.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import MissingDependency

_DEAD = "ZX"  # zombie, dead (proc(5))
_NO_PIDFD_POLL_SECONDS = 0.05
_EXECVE_SECONDS = 0.05  # a process is between two programs for microseconds


@dataclass(frozen=True)
class Process:
    """A process that was alive when this was made. `started` compares equal for the same process only."""

    pid: int
    started: str

    def alive(self) -> bool:
        """Tell whether this very process still runs. A zombie doesn't, once all of it has ended."""
        return not self.ended(within=0)

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when the process is gone already."""
        if not hasattr(os, "pidfd_open"):
            if self.alive():
                os.kill(self.pid, signal.SIGKILL)
            return
        descriptor = self._open_pidfd()
        if descriptor is not None:
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                return
            finally:
                os.close(descriptor)

    def ended(self, within: float) -> bool:
        """Wait for the process to end, at most `within` seconds. Return whether it has.

        On Linux by a pidfd: it also waits for the last thread, and with it for the ports, of a process that /proc calls
        a zombie already because its first thread has ended.
        """
        if not hasattr(os, "pidfd_open"):
            deadline = time.monotonic() + within
            while (found := _inspect(self.pid)) is not None and found == (False, self.started):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_NO_PIDFD_POLL_SECONDS)  # macOS: a process that isn't our child can only be looked at
            return True
        descriptor = self._open_pidfd()
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(within * 1000))
        finally:
            os.close(descriptor)

    def _open_pidfd(self) -> int | None:
        """Return a pidfd of this very process, or None when nobody, or someone else, has its pid."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (OSError, OverflowError):
            return None
        # Looked at after the pidfd is held: from here on it can't come to mean anyone else.
        found = _inspect(self.pid)
        if found is not None and found[1] == self.started:
            return descriptor
        os.close(descriptor)
        return None


def identify(pid: int) -> Process | None:
    """Return the process that has this pid now; None when there is none, or only a zombie."""
    found = _inspect(pid)
    return None if found is None or found[0] else Process(pid, found[1])


def _inspect(pid: int) -> tuple[bool, str] | None:
    """Return whether the process is a zombie, and its start time."""
    if Path("/proc/self/stat").exists():
        return _from_proc(pid)
    return _from_ps(pid)


def _from_proc(pid: int) -> tuple[bool, str] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold anything, spaces and parentheses too.
    fields = stat.rpartition(")")[2].split()
    return fields[0] in _DEAD, f"{boot}/{fields[19]}"


def _from_ps(pid: int) -> tuple[bool, str] | None:
    try:
        answer = subprocess.run(
            ["ps", "-o", "state=,lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise MissingDependency(
            "can't tell whether a process runs: there is neither /proc nor the program ps",
            hint="mount /proc, or install ps (Debian: procps)",
        ) from None
    state, _, started = answer.stdout.strip().partition(" ")
    return (state[0] in _DEAD, started.strip()) if started else None


def read_proc_file(pid: int, name: str) -> bytes:
    """Return a file of /proc/PID that is read from the process's memory: ``environ`` or ``cmdline``.

    Linux shows nothing of either while a process is in the middle of execve(2), so that whoever looks for a process by
    them would miss it. So what shows nothing is read again, for 50 milliseconds, unless it has no program (no ``exe``),
    as a kernel's thread, or is not ours to look into. Raises OSError when the process has ended, and for the
    environment of someone else's.
    """
    folder = Path("/proc", str(pid))
    deadline = time.monotonic() + _EXECVE_SECONDS
    while True:
        found = (folder / name).read_bytes()
        if found or time.monotonic() >= deadline:
            return found
        try:
            (folder / "exe").readlink()
        except (FileNotFoundError, PermissionError):
            return found
        time.sleep(0)  # execve's end has no event
