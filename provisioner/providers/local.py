"""The ``local`` provider: no VM. Takes the user-data apart and runs the agent from it, as a process on this machine.

For trying a job out. It isolates nothing: the job runs as you, with your files and your network.
As a VM takes its processes with it, so does the agent, even one that was killed: what the job left running is killed as
soon as the agent's end is noticed (`_processes` says how it is found).

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from provisioner.errors import BadInput, FreepostError
from provisioner.process import Process, identify, read_proc_file
from provisioner.providers.base import Context, Instance, Order, Phase, Provider, State

STOP_SECONDS = 15  # what a terminated agent gets to report `interrupted` before all of it is killed
KILL_SECONDS = 10  # what the kernel gets to end what was killed
_POLL_SECONDS = 0.05


class LocalProvider(Provider):
    """Runs the agent here. `folder` keeps what each launch needs and leaves behind."""

    name: ClassVar[str] = "local"
    user_data_limit: ClassVar[int] = 16_384  # as tight as EC2's, so that what runs here also launches there
    raw_limit: ClassVar[int] = 32_768  # as `elsewhere`
    option_schema: ClassVar[Mapping[str, Any]] = {}
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
            message = "the local provider starts one task per launch"
            raise BadInput(message)
        home = self._folder / order.token
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(home) as lock:
            if lock is not None and not (home / "pid").exists():
                self._start(home, order, lock)
        return [Instance(order.token, order.tasks[0], order.attempt)]

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """RUNNING while the agent holds its lock. What one that is gone left running is killed: it is GONE, too."""
        states = {item.id: self._state(item.id) for item in instances}
        gone = [self._home(name) for name, state in states.items() if state.phase is Phase.GONE]
        _end([home for home in gone if home not in self._ended and home.exists()])
        self._ended.update(gone)
        return states

    def console(self, instance: Instance) -> bytes:
        """What the agent printed."""
        try:
            return (self._home(instance.id) / "console").read_bytes()
        except FileNotFoundError:
            return b""

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Ask each agent to stop, kill what there is left of its launch after a while, and delete its files."""
        homes = [self._home(item.id) for item in instances]
        homes = [home for home in homes if home.exists()]
        running, asked = homes, set[Path]()
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            running = [home for home in running if self._state(home.name).phase is Phase.RUNNING]
            asked.update(home for home in running if home not in asked and _ask(home))
            if not running or time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)  # flock has no wait with a timeout
        _end(homes)
        for home in homes:
            _remove(home)

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
        from provisioner.userdata.parse import unpack
        from provisioner.userdata.render import GRANT_PATH, LAUNCHER_PATH, TASK_PATH

        root = home / "root"
        if root.exists():
            shutil.rmtree(root)  # of a launcher that died half-way
        for item in unpack(order.user_data).files:
            item.write(root, _here(item.content, root) if item.path == TASK_PATH else None)
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


def _ask(home: Path) -> bool:
    """Send SIGTERM to the agent; the caller has just seen it hold its lock. False when it hasn't told its pid yet."""
    pid = _pid(home)
    if pid is not None:
        with suppress(ProcessLookupError):  # it ended this moment
            os.kill(pid, signal.SIGTERM)
    return pid is not None


def _end(homes: Sequence[Path]) -> None:
    """Kill every process of these launches; those that they start meanwhile, too."""
    deadline = time.monotonic() + KILL_SECONDS
    while homes and (left := _processes(homes)):
        if time.monotonic() >= deadline:
            raise FreepostError(
                f"processes of the job don't end: pid {', '.join(str(process.pid) for process in left)}",
                hint="they wait for a device or a network file system; run the same command again",
            )
        for process in left:
            process.kill()
        for process in left:
            process.ended(within=1)


def _remove(home: Path) -> None:
    """Delete a launch's folder, where the job may have left folders that their owner may not change, as `go` does."""
    with suppress(PermissionError):
        shutil.rmtree(home)
        return
    try:
        for above, folders, _ in os.walk(home):
            for folder in (Path(above, name) for name in folders):
                if not folder.is_symlink():
                    folder.chmod(0o700)
        shutil.rmtree(home)
    except PermissionError as error:
        raise FreepostError(
            f"what the job left can't be deleted: {error.filename}: {error.strerror}",
            hint="delete it as its owner may, and run the same command again",
        ) from None


def _processes(homes: Sequence[Path]) -> list[Process]:
    """Every process of these launches.

    They are known by their environment, in which the agent has its grant, and the job its grant and its home, below the
    launch's folder; and by the agent's session, if one of those is in it. No pid is trusted: who has it may be anyone,
    by now. A daemon with a new session and an emptied environment is not found, nor is anything without Linux's /proc.
    """
    known = {home.name: home for home in homes}
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
        token = _token(environment, homes[0].parent)
        if token not in known:
            others.append((process, session))
            continue
        found.append(process)
        if session == _pid(known[token]):
            sessions.add(session)
    return found + [process for process, session in others if session in sessions]


def _token(environment: bytes, folder: Path) -> str | None:
    """The launch in `folder` that a process with this environment belongs to."""
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name in (b"FREEPOST_GRANT", b"HOME") and value.startswith(os.fsencode(folder) + b"/"):
            return Path(os.fsdecode(value)).relative_to(folder).parts[0]
    return None


def _pid(home: Path) -> int | None:
    """The agent's pid, which is its session's number as well."""
    try:
        return int((home / "pid").read_text())
    except (FileNotFoundError, ValueError):
        return None
