"""A control group per machine: what it may use of the host, and one name for all its processes.

Hosts have one hierarchy (cgroup v2), one per controller (v1), or both; the group is made in each that there is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
MAX_PROCESSES = 8192  # a guest that forks without end fills this, not the host
_REMOVE_SECONDS = 5  # what the kernel gets to forget processes that are already dead


def create(name: str, memory: int, cpus: int) -> list[str]:
    """Create the group and set its limits, `memory` in bytes. Return its folders, each with a cgroup.procs to join.

    The guest gets whole processors, which it also counts as its own. A share of the time of all of them would end in
    a guest full of busy processes: the kernel then stops the next process, also the guest's agent, at any priority.
    """
    host = sorted(os.sched_getaffinity(0))
    limits = {
        "memory.max": memory,
        "memory.limit_in_bytes": memory,
        "pids.max": MAX_PROCESSES,
        "cpuset.cpus": ",".join(map(str, secrets.SystemRandom().sample(host, min(cpus, len(host))))),
    }
    folders = []
    # In `cpu` of v1 nothing is limited: there the group is one among the host's, however many processes it has.
    for parent in (MOUNT, *(MOUNT / each for each in ("unified", "systemd", "memory", "pids", "cpu", "cpuset"))):
        if not (parent / "cgroup.procs").exists():
            continue
        _enable_controllers(parent)
        folder = parent / name
        folder.mkdir(exist_ok=True)
        for file, value in limits.items():
            if (folder / file).exists():
                (folder / file).write_text(str(value))
        if (parent / "cpuset.mems").exists():  # v1: a group has no memory nodes of its own accord, and none may join
            (folder / "cpuset.mems").write_text((parent / "cpuset.mems").read_text())
        folders.append(str(folder))
    return folders


def _enable_controllers(parent: Path) -> None:
    """Let the groups below `parent` have the controllers that limit a machine, where a v2 hierarchy has them."""
    if (parent / "cgroup.subtree_control").exists():
        available = (parent / "cgroup.controllers").read_text().split()
        wanted = [f"+{name}" for name in ("memory", "pids", "cpuset") if name in available]
        with contextlib.suppress(OSError):  # in a container whose own processes are in this group, nothing is limited
            (parent / "cgroup.subtree_control").write_text(" ".join(wanted))


def join(folders: Iterable[str]) -> None:
    """Move this process into the group."""
    for folder in folders:
        Path(folder, "cgroup.procs").write_text("0")


def remove(name: str) -> None:
    """Remove the group, whose processes have all ended, in every hierarchy."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    for parent in (MOUNT, *(path for path in MOUNT.iterdir() if path.is_dir() and not path.is_symlink())):
        group = parent / name
        if parent != MOUNT and not (parent / "cgroup.procs").exists():
            continue
        for folder, _, _ in os.walk(group, topdown=False):
            _remove_folder(Path(folder), deadline)


def _remove_folder(folder: Path, deadline: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # EBUSY: a process of it has not been reaped yet, and v1 has no event for that
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
