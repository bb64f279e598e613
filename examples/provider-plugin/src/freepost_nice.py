"""A Freepost provider in one file: runs each task on this machine, with low priority and no isolation.

A launch has a folder, named by the order's token: ``pid`` and ``start`` tell its process from a later one of the same
number, ``console`` is what it printed, ``root/`` holds the files of the user-data and the job's directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from provisioner.errors import BadInput
from provisioner.providers.base import Context, Instance, Order, Phase, Provider, State
from provisioner.userdata.parse import unpack
from provisioner.userdata.render import GRANT_PATH, LAUNCHER_PATH, TASK_PATH

STOP_SECONDS = 15  # for the agent to upload what there is


class NiceProvider(Provider):
    """What `vm.provider: nice` names. `niceness` under `vm` says how much others go first, 0 to 19."""

    name = "nice"
    user_data_limit = 65_536
    option_schema: ClassVar[Mapping[str, Any]] = {
        "niceness": {"type": "integer", "minimum": 0, "maximum": 19, "default": 19}
    }
    reaches_loopback = True  # a job that names no store gets the embedded one
    has_guest = False  # no cloud-init reads the user-data: `launch` takes it apart
    notice = "the nice provider isolates nothing: the job runs as you, on this machine"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def create(cls, context: Context) -> NiceProvider:
        """Make it; Freepost calls this."""
        return cls(context.state_dir / "nice")

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start the task, or find the one that this token started before."""
        (task,) = order.tasks
        folder = self._launch_folder(order.token)
        if not (folder / "start").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a launch that was cut off before it started anything
            self._start(folder, order)
        return [Instance(order.token, task, order.attempt)]

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """RUNNING while the process that was started is there."""
        return {item.id: self._state(self._launch_folder(item.id)) for item in instances}

    def console(self, instance: Instance) -> bytes:
        """Return what the agent printed."""
        path = self._launch_folder(instance.id) / "console"
        return path.read_bytes() if path.exists() else b""

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Ask each to stop, kill it if it doesn't, and delete its files."""
        for item in instances:
            folder = self._launch_folder(item.id)
            deadline = time.monotonic() + STOP_SECONDS
            number = signal.SIGTERM
            while self._state(folder).phase is Phase.RUNNING:
                with contextlib.suppress(ProcessLookupError):  # it ended this moment
                    os.killpg(int((folder / "pid").read_text()), number)
                time.sleep(0.1)  # it is no child of ours, whose end the kernel would tell
                number = signal.SIGKILL if time.monotonic() > deadline else signal.Signals(0)
            shutil.rmtree(folder, ignore_errors=True)

    def _launch_folder(self, token: str) -> Path:
        if not token.isalnum():
            raise BadInput(f"{token!r} is no launch of the nice provider")
        return self._folder / token

    def _start(self, folder: Path, order: Order) -> None:
        root = folder / "root"
        for item in unpack(order.user_data).files:
            item.write(root, _adapt_task(item.content, root) if item.path == TASK_PATH else None)
        grant = root / GRANT_PATH.lstrip("/")
        command = ["nice", "-n", str(order.options.get("niceness", 19)), root / LAUNCHER_PATH.lstrip("/"), "run"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (folder / "console").open("ab") as console:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**inherited, "FREEPOST_GRANT": str(grant)},
                start_new_session=True,
            )
        (folder / "pid").write_text(str(process.pid))
        (folder / "start").write_text(_start_time(process.pid))

    def _state(self, folder: Path) -> State:
        if not (folder / "start").exists():
            return State(Phase.GONE, "never launched here")
        began = (folder / "start").read_text()
        alive = began and _start_time(int((folder / "pid").read_text())) == began
        return State(Phase.RUNNING) if alive else State(Phase.GONE, "the agent ended")


def _adapt_task(document: bytes, root: Path) -> bytes:
    """Return the task's document for a job that runs as us and below `root`."""
    task = json.loads(document)
    return json.dumps({**task, "user": None, "workdir": str(root / task["workdir"].lstrip("/"))}).encode()


def _start_time(pid: int) -> str:
    """Return when a process started, by the kernel's count; empty when there is none, or only its body."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
