"""The embedded store: one SeaweedFS server of the user's own, on loopback, that outlives the command that started it.

::

    STATE/store/lock           held (flock) while one command starts or stops the server
    STATE/store/s3.json        the operator's keys, made at first start
    STATE/store/cfg/           the server's own keys and settings
    STATE/store/server.json    the last server: pid, start time, ports, bucket
    STATE/store/store.log      what it printed; store.log.1 is that of the one before
    STATE/store/data/          the objects

Everything is readable by the user alone, and no secret is on a command line. A restart keeps the keys, the objects and,
while they are free, the ports, so what was signed before it stays good.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import atomic
from provisioner.embedded import seaweedfs
from provisioner.embedded.client import REGION, Running, connect, make_bucket, why_unready
from provisioner.errors import BadInput, FreepostError, NotFound, Unreachable
from provisioner.process import Process, identify

if TYPE_CHECKING:
    from provisioner.boto import BotoClient

__all__ = ["DEFAULT_BUCKET", "EmbeddedStore", "Running", "connect"]

DEFAULT_BUCKET = "freepost"
START_SECONDS = 60.0  # a start takes 2 to 3 s on an idle machine; a busy one gets this long
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_LOG_LINES = 8
_RESET = "provision store stop, then move the folder away: without its keys nobody can be let in"
# The shell forks the server, says its pid and ends, so that the server is nobody's child and leaves no zombie. The
# server waits for a line before it becomes weed: a launcher that is killed before it wrote the pid down leaves nothing.
_GATE = 'exec 3<&0; { read -r _ <&3 && exec "$@" 3<&-; } </dev/null >>"$0" 2>&1 & echo "$!"'


@dataclass(frozen=True)
class _Server:
    """The contents of server.json."""

    process: Process
    ports: seaweedfs.Ports
    bucket: str


class EmbeddedStore:
    """The store below `state_dir`. Any number of these objects, in any number of processes, share one server."""

    def __init__(self, state_dir: Path) -> None:
        self._home = state_dir.absolute() / "store"
        self.log = self._home / "store.log"

    def start(self, buckets: Sequence[str] = ()) -> Running:
        """Start the server, or find the live one, and make the buckets that aren't there yet.

        `Running.bucket` is the first of `buckets`, else the one of the last start, else ``freepost``. Returns when the
        store serves signed requests and has its old objects at hand. Raise MissingDependency without SeaweedFS,
        Unreachable (with the end of its log) when it doesn't come up, BadInput for a bad bucket name or state folder.
        """
        try:
            with self._locked():
                return self._start(buckets)
        except OSError as error:
            raise FreepostError(
                f"the embedded store can't be started in {self._home}: {error.strerror}",
                hint="free disk space, or set FREEPOST_STATE_DIR to another folder",
            ) from None

    def status(self) -> Running | None:
        """Return the live store, or None. Doesn't wait: one that is starting this very moment counts as live."""
        server = self._recorded()
        return self._running(server) if server and server.process.alive() else None

    def stop(self) -> bool:
        """End the server and return True; False when none runs. Objects and keys stay.

        By SIGKILL: SIGTERM takes 10 to 15 s, and a kill loses nothing, for what was acknowledged is in the kernel's
        page cache by then and the indexes are logs that are replayed (a test kills it right after a write).
        """
        if not self._home.is_dir():
            return False
        with self._locked():
            server = self._recorded()
            if server is None or not server.process.alive():
                if server is not None:
                    seaweedfs.remove_stale_sockets(server.ports)
                return False
            self._end(server)
            return True

    def _end(self, server: _Server) -> None:
        server.process.kill()
        if not server.process.ended(within=STOP_SECONDS):
            raise FreepostError(f"the embedded store (pid {server.process.pid}) didn't end within {STOP_SECONDS:.0f} s")
        seaweedfs.remove_stale_sockets(server.ports)

    def _start(self, buckets: Sequence[str]) -> Running:
        last = self._recorded()
        names = list(dict.fromkeys(buckets)) or [last.bucket if last else DEFAULT_BUCKET]
        found = self._find(last, names) if last is not None else None
        server = replace(found or self._launch(last, names), bucket=names[0])
        self._record(server)
        return self._running(server)

    def _find(self, last: _Server, buckets: Sequence[str]) -> _Server | None:
        """Return the last server if it lives, once it serves; None when it is dead or dies meanwhile."""
        if not last.process.alive():
            return None
        try:
            self._make_ready(last, buckets)
        except Unreachable:
            if last.process.alive():
                raise
            return None
        return last

    def _launch(self, last: _Server | None, buckets: Sequence[str]) -> _Server:
        """Spawn a server and wait until it serves; again, on other ports, when a stranger took one in between."""
        program = seaweedfs.find_program()
        self._configure()
        if last is not None:
            seaweedfs.remove_stale_sockets(last.ports)
        bucket = last.bucket if last else DEFAULT_BUCKET  # what was asked for may be no bucket's name
        ports = last.ports if last is not None and seaweedfs.are_free(last.ports) else seaweedfs.free_ports()
        tries = 3
        while True:
            tries -= 1
            server = self._spawn([str(program), *seaweedfs.arguments(ports)], ports, bucket)
            try:
                self._make_ready(server, buckets)
            except Unreachable:
                if server.process.alive():
                    raise
                seaweedfs.remove_stale_sockets(ports)
                if tries == 0 or seaweedfs.are_free(ports):
                    raise
                ports = seaweedfs.free_ports()
            else:
                return server

    def _make_ready(self, server: _Server, buckets: Sequence[str]) -> None:
        with connect(self._running(server)) as client:
            self._await_ready(server, client)
            for name in buckets:
                make_bucket(client, name)

    def _spawn(self, command: Sequence[str], ports: seaweedfs.Ports, bucket: str) -> _Server:
        if self.log.exists():
            self.log.replace(self.log.with_name("store.log.1"))
        atomic.write(self.log, "")
        reader, gate = os.pipe()
        try:
            answer = subprocess.run(
                ["/bin/sh", "-c", _GATE, str(self.log), *command],
                stdin=reader,
                stdout=subprocess.PIPE,
                check=True,
                cwd=self._home,  # paths in the arguments are relative: a socket's may have at most 104 bytes
                env=seaweedfs.environment(self._home),
                start_new_session=True,
            )
            process = identify(int(answer.stdout))
            if process is None:
                raise Unreachable("the embedded store was killed before it began", hint="start it again")
            server = _Server(process, ports, bucket)
            self._record(server)
            with contextlib.suppress(BrokenPipeError):  # killed this moment: _await_ready says so
                os.write(gate, b"\n")
        finally:
            os.close(reader)
            os.close(gate)
        return server

    def _await_ready(self, server: _Server, client: BotoClient) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (fault := why_unready(client)) is not None:
            if server.process.ended(within=_POLL_SECONDS):
                raise Unreachable(
                    f"the embedded store ended while starting; {self.log} ends with:\n{self._log_tail()}",
                    hint="start it again; free disk space and memory are what it needs most",
                )
            if time.monotonic() >= deadline:
                raise Unreachable(
                    f"the embedded store (pid {server.process.pid}) doesn't serve after {START_SECONDS:.0f} s"
                    f" ({fault}); {self.log} ends with:\n{self._log_tail()}",
                    hint="provision store stop, then start it again",
                )

    def _running(self, server: _Server) -> Running:
        access_key, secret_key = self._keys()
        endpoint = f"http://{seaweedfs.HOST}:{server.ports.s3}"
        return Running(endpoint, REGION, server.bucket, access_key, secret_key, server.process.pid)

    def _configure(self) -> None:
        """Write the settings and make the keys, where they aren't there from an earlier start."""
        for folder in (self._home / "cfg", self._home / "data"):
            folder.mkdir(mode=0o700, exist_ok=True)
        for name, text in seaweedfs.settings().items():
            if not (self._home / name).exists():
                atomic.write(self._home / name, text)

    def _keys(self) -> tuple[str, str]:
        path = self._home / "s3.json"
        try:
            found = json.loads(path.read_bytes())["identities"][0]["credentials"][0]
            return str(found["accessKey"]), str(found["secretKey"])
        except FileNotFoundError:
            raise NotFound(f"the embedded store's keys are gone: there is no {path}", hint=_RESET) from None
        except (ValueError, LookupError, TypeError):
            raise FreepostError(f"{path} doesn't hold the embedded store's keys any more", hint=_RESET) from None

    def _recorded(self) -> _Server | None:
        """Return the last server that was started, dead or alive. A record that can't be read is none."""
        try:
            raw = json.loads((self._home / "server.json").read_bytes())
            process = Process(int(raw["process"]["pid"]), str(raw["process"]["started"]))
            return _Server(process, seaweedfs.Ports(*map(int, raw["ports"])), str(raw["bucket"]))
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    def _record(self, server: _Server) -> None:
        atomic.write(self._home / "server.json", json.dumps(asdict(server)))

    def _log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(line[:300] for line in lines)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock. It ends with the process that holds it, so a file left behind by a dead one is no lock."""
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadInput(
                f"the state folder {self._home} can't be used: {error.strerror}",
                hint="set FREEPOST_STATE_DIR to a folder of your own",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
