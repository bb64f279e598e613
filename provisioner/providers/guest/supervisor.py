"""Watches over one machine: starts it, carries its store connections, keeps its console, cleans up when it ends.

Run as ``python -m provisioner.providers.guest.supervisor HOME LOCKFD``. It leaves its launcher's session at once, so
the machine outlives the launcher. On standard output goes one line, when the guest runs or can't: ``up``, or why not.
SIGTERM ends the machine; SIGUSR1 cuts its power and keeps the disk.

If the supervisor itself is killed, so is the machine: every process in it asks the kernel to die with its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from provisioner.providers.guest import cgroup, relay
from provisioner.providers.guest.commands import POWERED_OFF, REBOOT, slirp
from provisioner.providers.guest.state_dir import CONSOLE_BYTES, GONE, PENDING, RUNNING, Home

MOST_BOOTS = 20  # a guest that panics at each boot ends some time
OVERTIME = 120  # seconds that a machine may outlive its grant, in which it can do nothing more
# Ours from the start to the end of every helper: the kernel kills it when its parent dies.
LEASH = ["setpriv", "--pdeathsig", "KILL"]


class Supervisor:
    """One machine, from its first boot to its end."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._record = home.record()
        self._asked = asyncio.Event()
        self._groups: list[str] = []
        self._keep = False
        self._ending = ""

    async def run(self) -> None:
        """Boot, as often as the guest asks for it, and clean up."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end, "terminated")
        loop.add_signal_handler(signal.SIGUSR1, self._lose_power)
        self._home.say(PENDING, "starting", os.getpid())
        reason, keep = "it could not start", False
        image = os.open(self._record["image"]["folder"], os.O_RDONLY)
        fcntl.flock(image, fcntl.LOCK_SH)  # the image stays as long as a machine runs on it
        if self._record["provider"] == "machine":  # QEMU bounds its guest by itself
            self._groups = cgroup.make(self._record["id"], self._record["memory"], self._record["cpus"])
        try:
            for _ in range(MOST_BOOTS):
                status = await self._boot()
                if status != REBOOT or self._ending:
                    break
            reason, keep = self._why(status)
        except StartError as error:
            reason = str(error)
            _report(reason)
        finally:
            if self._groups:
                cgroup.remove(self._record["id"])
            self._home.clean(keep_disk=keep)
            self._home.say(GONE, reason, os.getpid())

    def _end(self, why: str) -> None:
        self._ending = why
        self._asked.set()

    def _lose_power(self) -> None:
        self._keep = True
        self._end("lost power")

    def _why(self, status: int) -> tuple[str, bool]:
        """Say how the machine ended, and whether to keep its disk."""
        if self._ending:
            return self._ending, self._keep
        if status == POWERED_OFF:
            return "powered off", self._record["keep_disk"]
        if status == REBOOT:
            return f"rebooted {MOST_BOOTS} times", self._record["keep_disk"]
        return f"died: its monitor ended with status {status}", True

    async def _boot(self) -> int:
        """Run the guest once. Return its monitor's exit status."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        pump = asyncio.create_task(self._keep_console(read_end))
        with ours:
            capsule = await asyncio.create_subprocess_exec(
                *LEASH,
                "unshare",
                *(["--user", "--map-root-user"] if os.geteuid() else []),
                *("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "provisioner.providers.guest.namespace_init"),
                *(str(self._home.path), str(theirs.fileno()), *self._groups),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            os.close(write_end)
            try:
                return await self._watch(capsule, ours)
            finally:
                await capsule.wait()
                await pump

    async def _watch(self, capsule: asyncio.subprocess.Process, channel: socket.socket) -> int:
        """Give the capsule its network, and wait for the end of the guest or of our patience with it."""
        said, fds, _, _ = await asyncio.to_thread(socket.recv_fds, channel, 1 << 12, 4)
        if not fds:
            raise StartError(said.decode() or await self._last_word(capsule))
        pidfd, listener, network, user = fds
        servers = []
        uplink = None
        try:
            with socket.socket(fileno=listener) as listening:
                uplink = await self._uplink(network, user)
                if self._record["store"]:
                    servers.append(await relay.serve(listening.dup(), *self._record["store"]))
            await asyncio.to_thread(channel.sendall, json.dumps(host_addresses()).encode())
            answer = await asyncio.to_thread(channel.recv, 1 << 12)
            if answer != b"up":
                raise StartError(answer.decode() or await self._last_word(capsule))
            self._home.say(RUNNING, "", os.getpid())
            _report("up")
            return await self._end_of(capsule)
        finally:
            if capsule.returncode is None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await capsule.wait()
            for each in (pidfd, network, user):
                os.close(each)
            for server in servers:
                server.close()
            if uplink:
                uplink.terminate()
                await uplink.wait()

    async def _end_of(self, capsule: asyncio.subprocess.Process) -> int:
        ended = asyncio.create_task(capsule.wait())
        asked = asyncio.create_task(self._asked.wait())
        left = max(1.0, self._record["expires"] + OVERTIME - time.time())
        done, _ = await asyncio.wait({ended, asked}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not done:
            self._end("outlived its grant")
        if ended in done:
            return ended.result()
        ended.cancel()
        return -1

    async def _uplink(self, network: int, user: int) -> asyncio.subprocess.Process:
        """Start the outer user-mode network, and wait until its card is there."""
        ready, report = os.pipe()
        options = ["--configure", "--mtu=65520", "--disable-host-loopback", "--cidr=10.0.3.0/24"]
        options.append(f"--ready-fd={report}")
        if os.geteuid():
            options.append(f"--userns-path=/proc/self/fd/{user}")
        process = await asyncio.create_subprocess_exec(
            *LEASH,
            *slirp(f"/proc/self/fd/{network}", "tap0", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[report, network, user],
        )
        os.close(report)
        answer = await asyncio.to_thread(os.read, ready, 1)
        os.close(ready)
        if not answer:
            await process.wait()
            raise StartError(await self._last_word(process))
        return process

    async def _last_word(self, capsule: asyncio.subprocess.Process) -> str:
        """What is to be said of a capsule that said nothing itself."""
        log = (self._home.path / "log").read_text(errors="replace").strip()
        return log.rpartition("\n")[2] or f"its first process ended with status {await capsule.wait()}"

    async def _keep_console(self, descriptor: int) -> None:
        """Append what the guest prints to the console file, and keep the file small."""
        reader = asyncio.StreamReader()
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            path = self._home.path / "console"
            while block := await reader.read(1 << 16):
                with path.open("ab") as console:
                    console.write(block)
                    full = console.tell() > CONSOLE_BYTES
                if full:
                    path.replace(path.with_name("console.old"))


class StartError(Exception):
    """The guest could not be started; the text says why."""


def host_addresses() -> list[str]:
    """What the guest must not reach: each IPv4 address of the host, and the link-local net where clouds keep theirs."""
    done = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True)
    found = [each["local"] for card in json.loads(done.stdout) for each in card["addr_info"] if "local" in each]
    return [*(f"{address}/32" for address in found if not address.startswith("127.")), "169.254.0.0/16"]


def _report(line: str) -> None:
    """Tell the launcher, if it still listens, and let it go."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())
    os.dup2(0, 1)  # standard input is /dev/null, open for both


def main(home_path: str, lock: str) -> None:
    """Leave the launcher behind and supervise. `lock` is inherited, locked, and dropped by our end."""
    if os.fork():
        os._exit(0)  # the launcher has nobody to bury later
    os.setsid()
    os.chdir("/")
    fcntl.fcntl(int(lock), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    asyncio.run(Supervisor(Home(Path(home_path))).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
