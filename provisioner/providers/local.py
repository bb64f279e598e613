"""The ``local`` provider: no VM. Takes the user-data apart and runs the agent from it, as a process on this machine.

For trying a job out. It isolates nothing: the job runs as you, with your files and your network.
As a VM takes its processes with it, so does the agent, even one that was killed: what the job left running is killed as
soon as the agent's end is noticed (`_find_processes` says how it is found).

Each launch has a folder below the state folder, named by the order's token::

    TOKEN/lock     held by the running agent for as long as it lives: who is alive is never a guess about a pid
    TOKEN/pid      written by the agent's own process before it starts; where it exists, the agent was launched
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from agent.layout import GRANT_VARIABLE
from provisioner.errors import BadInput, FreepostError
from provisioner.process import Process, identify, read_proc_file
from provisioner.providers.base import EC2_LIMIT, RAW_LIMIT, Context, Instance, Order, Phase, Provider, State

STOP_SECONDS = 15  # what a terminated agent gets to report `interrupted` before all of it is killed
KILL_SECONDS = 10  # what the kernel gets to end what was killed
_POLL_SECONDS = 0.05


class LocalProvider(Provider):
    """Runs the agent here. `folder` keeps what each launch needs and leaves behind."""

    name: ClassVar[str] = "local"
    user_data_limit: ClassVar[int] = EC2_LIMIT  # as tight as EC2's, so that what runs here also launches there
    raw_limit: ClassVar[int] = RAW_LIMIT
    option_schema: ClassVar[Mapping[str, Any]] = {}
    reaches_loopback: ClassVar[bool] = True
    has_guest: ClassVar[bool] = False
    notice: ClassVar[str] = "the local provider isolates nothing: the job runs as you, on this machine"

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # the agent runs elsewhere
        self._ended: set[Path] = set()  # launches of which nothing runs any more

    @classmethod
    def create(cls, context: Context) -> LocalProvider:
        """Keep the launches below the state folder."""
        return cls(context.state_dir / "local")

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start the agent, or find the one that an earlier launch with this token started."""
        if len(order.tasks) != 1:
            raise BadInput("the local provider starts one task per launch")
        folder = self._folder / order.token
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder) as lock:
            if lock is not None and not (folder / "pid").exists():
                self._start(folder, order, lock)
        return [Instance(order.token, order.tasks[0], order.attempt)]

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """RUNNING while the agent holds its lock. What one that is gone left running is killed: it is GONE, too."""
        states = {item.id: self._state(item.id) for item in instances}
        gone = [self._launch_folder(name) for name, state in states.items() if state.phase is Phase.GONE]
        _kill_processes([folder for folder in gone if folder not in self._ended and folder.exists()])
        self._ended.update(gone)
        return states

    def console(self, instance: Instance) -> bytes:
        """Return what the agent printed."""
        try:
            return (self._launch_folder(instance.id) / "console").read_bytes()
        except FileNotFoundError:
            return b""

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Ask each agent to stop, kill what there is left of its launch after a while, and delete its files."""
        folders = [self._launch_folder(item.id) for item in instances]
        folders = [folder for folder in folders if folder.exists()]
        running, signalled = folders, set[Path]()
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            running = [folder for folder in running if self._state(folder.name).phase is Phase.RUNNING]
            signalled.update(folder for folder in running if folder not in signalled and _request_stop(folder))
            if not running or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)  # flock has no wait with a timeout
        _kill_processes(folders)
        for folder in folders:
            _delete_folder(folder)

    def _launch_folder(self, token: str) -> Path:
        if not token.isalnum():
            raise BadInput(f"the local provider has no launch {token!r}")
        return self._folder / token

    def _state(self, token: str) -> State:
        folder = self._launch_folder(token)
        if not folder.exists():
            return State(Phase.GONE, "never launched here")
        with _locked(folder) as lock:
            return State(Phase.RUNNING) if lock is None else State(Phase.GONE, "the agent ended")

    def _start(self, folder: Path, order: Order, lock: int) -> None:
        from provisioner.userdata.parse import unpack
        from provisioner.userdata.render import GRANT_PATH, LAUNCHER_PATH, TASK_PATH

        root = folder / "root"
        if root.exists():
            shutil.rmtree(root)  # of a launcher that died half-way
        for item in unpack(order.user_data).files:
            item.write(root, _adapt_task(item.content, root) if item.path == TASK_PATH else None)
        launcher = root / LAUNCHER_PATH.lstrip("/")
        search = os.pathsep.join(
            [str(launcher.parent), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        )
        # sh writes the pid and becomes the agent, so that a launcher killed right here leaves a whole launch behind.
        with (folder / "console").open("ab") as console:
            agent = subprocess.Popen(
                [
                    "/bin/sh", "-c", 'echo $$ >"$0"; exec "$@"', str(folder / "pid"), str(launcher), "run",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=root,
                env={**_clean_environment(), "PATH": search, GRANT_VARIABLE: str(root / GRANT_PATH.lstrip("/"))},
                start_new_session=True,
                pass_fds=[lock],
            )  # fmt: skip
        agent.returncode = 0  # nobody waits for it: it outlives us, and its lock tells whether it lives


def _adapt_task(task: bytes, root: Path) -> bytes:
    """Return the task as it can run here: as the user who launches it, in a folder below `root`."""
    document = json.loads(task)
    return json.dumps({**document, "user": None, "workdir": str(root / document["workdir"].lstrip("/"))}).encode()


def _clean_environment() -> dict[str, str]:
    """Return the environment without the operator's cloud credentials, which no job may come to rely on."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}


@contextmanager
def _locked(folder: Path) -> Iterator[int | None]:
    """Hold the launch's lock; None when its agent (or another launcher) holds it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _request_stop(folder: Path) -> bool:
    """Send SIGTERM to the agent, which was just seen to hold its lock. Return False if its pid isn't known yet."""
    pid = _read_pid(folder)
    if pid is not None:
        with suppress(ProcessLookupError):  # it ended this moment
            os.kill(pid, signal.SIGTERM)
    return pid is not None


def _kill_processes(folders: Sequence[Path]) -> None:
    """Kill every process of these launches; those that they start meanwhile, too."""
    deadline = time.monotonic() + KILL_SECONDS
    while folders and (remaining := _find_processes(folders)):
        if time.monotonic() >= deadline:
            raise FreepostError(
                f"processes of the job don't end: pid {', '.join(str(process.pid) for process in remaining)}",
                hint="run the same command again; they may be waiting for a device or a network file system",
            )
        for process in remaining:
            process.kill()
        for process in remaining:
            process.ended(within=1)


def _delete_folder(folder: Path) -> None:
    """Delete a launch's folder, in which the owner may not change what some jobs leave, such as Go's module cache."""
    with suppress(PermissionError):
        shutil.rmtree(folder)
        return
    try:
        for parent, names, _ in os.walk(folder):
            for below in (Path(parent, name) for name in names):
                if not below.is_symlink():
                    below.chmod(0o700)
        shutil.rmtree(folder)
    except PermissionError as error:
        raise FreepostError(
            f"what the job left can't be deleted: {error.filename}: {error.strerror}",
            hint="delete it as its owner, and run the same command again",
        ) from None


def _find_processes(folders: Sequence[Path]) -> list[Process]:
    """Return every process of these launches.

    They are known by their environment, in which the agent has its grant, and the job its grant and its home, below the
    launch's folder; and by the agent's session, if one of those is in it. No pid is trusted: who has it may be anyone,
    by now. A daemon with a new session and an emptied environment is not found, nor is anything without Linux's /proc.
    """
    known = {folder.name: folder for folder in folders}
    found, others, sessions = [], [], set[int]()
    for entry in Path("/proc").glob("[0-9]*"):
        process = identify(int(entry.name))
        try:
            session = os.getsid(int(entry.name))
            environment = read_proc_file(int(entry.name), "environ")
        except OSError:  # gone, or someone else's
            continue
        if process is None:
            continue
        token = _launch_of(environment, folders[0].parent)
        if token not in known:
            others.append((process, session))
            continue
        found.append(process)
        if session == _read_pid(known[token]):
            sessions.add(session)
    return found + [process for process, session in others if session in sessions]


def _launch_of(environment: bytes, parent: Path) -> str | None:
    """Return the token of the launch in `parent` that a process with this environment belongs to."""
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name in (os.fsencode(GRANT_VARIABLE), b"HOME") and value.startswith(os.fsencode(parent) + b"/"):
            return Path(os.fsdecode(value)).relative_to(parent).parts[0]
    return None


def _read_pid(folder: Path) -> int | None:
    """Return the agent's pid, which is its session's number as well; None before it is known."""
    try:
        return int((folder / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
