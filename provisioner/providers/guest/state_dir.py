"""The folder of one machine, which holds all that is known of it, for any process that asks.

::

    ID/machine.json   what was ordered, and the image; holds no secret
    ID/seed/          NoCloud's files. The user-data holds the grant: 0600, and deleted when the machine has ended
    ID/disk           what the guest wrote; deleted when it has powered off, kept when it lost power
    ID/console        what the guest printed, and ID/console.old before that
    ID/state.json     phase, reason, the supervisor's pid
    ID/launching      locked by the process that is starting or ending this machine (`StateDir.exclusive`)
    ID/lock           locked by the supervisor for as long as it lives: who is alive is never a guess about a pid
    ID/log            what the supervisor and its helpers print

A machine that is GONE leaves machine.json, state.json, console and log behind, so that the same token never launches
twice and its console can still be read.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from provisioner import atomic

PENDING, RUNNING, GONE = "pending", "running", "gone"
REMOVED = ".removed-"  # a folder that is being deleted
CONSOLE_BYTES = 4 << 20  # the console keeps the last one to two times this


class StateDir:
    """The folder of the machine called `path.name`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = path / "disk"
        self.seed = path / "seed"

    def exists(self) -> bool:
        """Tell whether anything is known of this machine."""
        return (self.path / "machine.json").exists()

    def read_record(self) -> dict[str, Any]:
        """Return what was ordered, as `record.make_record` wrote it."""
        record: dict[str, Any] = json.loads((self.path / "machine.json").read_text())
        return record

    def prepare(self, record: dict[str, Any], seed: dict[str, bytes]) -> None:
        """Write down an order. Nobody else can read it, from its first byte on."""
        self.seed.mkdir(mode=0o700, exist_ok=True)
        for name, content in seed.items():
            atomic.write(self.seed / name, content)
        atomic.write(self.path / "machine.json", json.dumps(record, indent=1))

    def status(self) -> dict[str, Any]:
        """Return what the launcher or the supervisor wrote last: phase, reason, pid. Empty before the first."""
        try:
            status: dict[str, Any] = json.loads((self.path / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return status

    def set_status(self, phase: str, reason: str = "", pid: int = 0) -> None:
        """Write down a new status, whole or not at all."""
        atomic.write(self.path / "state.json", json.dumps({"phase": phase, "reason": reason, "pid": pid}))

    def console(self) -> bytes:
        """Return the end of what the guest printed."""
        output = b""
        for name in ("console.old", "console"):
            try:
                output += (self.path / name).read_bytes()
            except FileNotFoundError:
                continue
        return output

    @contextmanager
    def exclusive(self, *, wait: bool = True) -> Iterator[None]:
        """Wait until nobody else starts or ends this machine, and keep them from it.

        Raise BlockingIOError when somebody does and we are not to wait.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            try:
                file = (self.path / "launching").open("a")
            except FileNotFoundError:
                continue  # another process has just removed the folder
            with file:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_same_file(self.path / "launching", file.fileno()):
                    yield
                    return

    def remove(self) -> None:
        """Delete the folder. Only for a caller inside `exclusive` who knows that no supervisor lives."""
        # Renamed first: a process that waits for the lock finds the folder gone, never half deleted.
        removed = self.path.with_name(f"{REMOVED}{self.path.name}-{os.getpid()}-{time.monotonic_ns()}")
        self.path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)  # `delete_removed` comes back for what can't be deleted now

    def is_stale(self, seconds: float) -> bool:
        """Tell whether this machine ended more than `seconds` ago, or its launch was killed before it was one."""
        status = self.status()
        if not status:
            return True
        try:
            age = time.time() - (self.path / "state.json").stat().st_mtime
        except FileNotFoundError:
            return False
        return age > seconds and status["phase"] == GONE and not self.is_supervised()

    def lock_supervisor(self) -> int:
        """Take the supervisor's lock, for it to inherit. Only for a caller inside `exclusive` who saw it dead."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits at most for an `is_supervised` elsewhere
        return descriptor

    def is_supervised(self) -> bool:
        """Tell whether the supervisor lives."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(descriptor)

    def clean(self, *, keep_disk: bool) -> None:
        """Delete what a machine that has ended needs no more."""
        for name in ("mnt", "resolv.conf"):
            _delete(self.path / name)  # mnt is empty: what was mounted on it was so in namespaces that are gone
        if not keep_disk:
            _delete(self.disk)
            _delete(self.seed)


def list_machines(folder: Path) -> list[StateDir]:
    """Return every machine's folder, also what a crash left of one."""
    paths = sorted(folder.iterdir()) if folder.exists() else []
    return [StateDir(path) for path in paths if not path.name.startswith(REMOVED)]


def delete_removed(folder: Path) -> None:
    """Delete what a crash left of folders that were being removed."""
    for path in folder.glob(f"{REMOVED}*"):
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
