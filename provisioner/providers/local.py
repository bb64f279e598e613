"""The ``local`` provider: no VM. Takes the user-data apart and runs the agent from it, as a process on this machine.

For trying a job out. It isolates nothing: the job runs as you, with your files and your network.

Each launch has a folder below the state folder, named by the order's token::

    TOKEN/lock     held by the running agent for as long as it lives: who is alive is never a guess about a pid
    TOKEN/pid      written by the agent's own process before it starts; its presence says "launched once"
    TOKEN/console  what the agent printed
    TOKEN/root/    the files of the user-data, and the job's directory
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from provisioner.cloudconfig import unpack
from provisioner.errors import BadInput
from provisioner.providers.base import Instance, Order, Phase, State
from provisioner.providers.registry import Context
from provisioner.userdata import GRANT_PATH, LAUNCHER_PATH, TASK_PATH

STOP_SECONDS = 15  # what a terminated agent gets to report `interrupted` before its session is killed
_POLL_SECONDS = 0.05


class LocalProvider:
    """Runs the agent here. `folder` keeps what each launch needs and leaves behind."""

    name: ClassVar[str] = "local"
    user_data_limit: ClassVar[int] = 16_384  # as tight as EC2's, so that what runs here also launches there
    option_schema: ClassVar[Mapping[str, Any]] = {}
    notice: ClassVar[str] = "the local provider isolates nothing: the job runs as you, on this machine"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def create(cls, context: Context) -> LocalProvider:
        """Keep the launches below the state folder."""
        return cls(context.state_dir / "local")

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start the agent, or find the one that an earlier launch with this token started."""
        if len(order.tasks) != 1:
            message = "the local provider starts one task per launch"
            raise BadInput(message)
        home = self._folder / order.token
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(home) as lock:
            if lock is not None and not (home / "pid").exists():
                self._start(home, order, lock)
        return [Instance(order.token, order.tasks[0], order.attempt)]

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """RUNNING while the agent holds its lock."""
        return {item.id: self._state(item.id) for item in instances}

    def console(self, instance: Instance) -> bytes:
        """What the agent printed."""
        try:
            return (self._home(instance.id) / "console").read_bytes()
        except FileNotFoundError:
            return b""

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Ask each agent to stop, kill what is left of its session after a while, and delete its files."""
        homes = [self._home(item.id) for item in instances]
        running = [home for home in homes if self._state(home.name).phase is Phase.RUNNING]
        for home in running:
            _signal(home, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for home in running:
            while time.monotonic() < deadline and self._state(home.name).phase is Phase.RUNNING:
                time.sleep(_POLL_SECONDS)  # flock has no wait with a timeout
            _kill_session(home)
        for home in homes:
            if home.exists():
                shutil.rmtree(home)

    def _home(self, token: str) -> Path:
        if not token.isalnum():
            message = f"{token!r} is no launch of the local provider"
            raise BadInput(message)
        return self._folder / token

    def _state(self, token: str) -> State:
        home = self._home(token)
        if not home.exists():
            return State(Phase.GONE, "never launched here")
        with _locked(home) as lock:
            return State(Phase.RUNNING) if lock is None else State(Phase.GONE, "the agent ended")

    def _start(self, home: Path, order: Order, lock: int) -> None:
        root = home / "root"
        shutil.rmtree(root, ignore_errors=True)  # of a launcher that died half-way
        for item in unpack(order.user_data).files:
            path = root / item.path.lstrip("/")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(item.mode)
            path.write_bytes(item.content if item.path != TASK_PATH else _here(item.content, root))
        launcher = root / LAUNCHER_PATH.lstrip("/")
        search = os.pathsep.join(
            [str(launcher.parent), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        # sh writes the pid and becomes the agent, so that a launcher killed right here leaves a whole launch behind.
        with (home / "console").open("ab") as console:
            agent = subprocess.Popen(
                [
                    "/bin/sh", "-c", 'echo $$ >"$0"; exec "$@"', str(home / "pid"), str(launcher), "run",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=root,
                env={**_harmless_environment(), "PATH": search, "FREEPOST_GRANT": str(root / GRANT_PATH.lstrip("/"))},
                start_new_session=True,
                pass_fds=[lock],
            )  # fmt: skip
        agent.returncode = 0  # nobody waits for it: it outlives us, and its lock says how it is


def _here(task: bytes, root: Path) -> bytes:
    """The task as it can run here: as the user one is, in a folder below the scratch root."""
    document = json.loads(task)
    return json.dumps({**document, "user": None, "workdir": str(root / document["workdir"].lstrip("/"))}).encode()


def _harmless_environment() -> dict[str, str]:
    """The environment without the operator's cloud credentials, which no job may come to rely on."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}


@contextmanager
def _locked(home: Path) -> Iterator[int | None]:
    """Hold the launch's lock; None when its agent (or another launcher) holds it."""
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _signal(home: Path, number: signal.Signals) -> None:
    """Signal the agent; the caller has just seen it hold its lock, so the pid is its own."""
    try:
        os.kill(int((home / "pid").read_text()), number)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return


def _kill_session(home: Path) -> None:
    """Kill every process of the agent's session: the job, too, when the agent could not end it."""
    try:
        session = int((home / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                os.kill(int(process.name), signal.SIGKILL)
        except ProcessLookupError:
            continue
