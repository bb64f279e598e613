"""Supervises one machine: starts it, relays its connections to the store, keeps its console, cleans up when it ends.

Run as ``python -m provisioner.providers.guest.supervisor FOLDER LOCKFD``. It leaves its launcher's session at once, so
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
from provisioner.providers.guest.commands import POWERED_OFF, REBOOT, last_line, slirp_command
from provisioner.providers.guest.state_dir import CONSOLE_BYTES, GONE, PENDING, RUNNING, StateDir

MAX_BOOTS = 20  # a guest that panics at each boot is given up after as many
OVERTIME_SECONDS = 120  # for which a machine may outlive its grant, when it can do nothing more
# How every helper is started: the kernel kills it when its parent dies.
DIE_WITH_PARENT = ["setpriv", "--pdeathsig", "KILL"]


class Supervisor:
    """One machine, from its first boot to its end."""

    def __init__(self, machine: StateDir) -> None:
        self._machine = machine
        self._record = machine.read_record()
        self._stop_requested = asyncio.Event()
        self._groups: list[str] = []
        self._keep_disk = False
        self._ending = ""

    async def run(self) -> None:
        """Boot, as often as the guest asks for it, and clean up."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, "terminated")
        loop.add_signal_handler(signal.SIGUSR1, self._cut_power)
        self._machine.set_status(PENDING, "starting", os.getpid())
        reason, keep = "it could not start", False
        image = os.open(self._record["image"]["folder"], os.O_RDONLY)
        fcntl.flock(image, fcntl.LOCK_SH)  # the image stays as long as a machine runs on it
        if self._record["provider"] == "machine":  # QEMU bounds its guest by itself
            self._groups = cgroup.create(self._record["id"], self._record["memory"], self._record["cpus"])
        try:
            for _ in range(MAX_BOOTS):
                status = await self._boot()
                if status != REBOOT or self._ending:
                    break
            reason, keep = self._outcome(status)
        except StartError as error:
            reason = str(error)
            _report_start(reason)
        finally:
            if self._groups:
                cgroup.remove(self._record["id"])
            self._machine.clean(keep_disk=keep)
            self._machine.set_status(GONE, reason, os.getpid())

    def _stop(self, reason: str) -> None:
        self._ending = reason
        self._stop_requested.set()

    def _cut_power(self) -> None:
        self._keep_disk = True
        self._stop("lost power")

    def _outcome(self, status: int) -> tuple[str, bool]:
        """Return how the machine ended, and whether to keep its disk."""
        if self._ending:
            return self._ending, self._keep_disk
        if status == POWERED_OFF:
            return "powered off", self._record["keep_disk"]
        if status == REBOOT:
            return f"rebooted {MAX_BOOTS} times", self._record["keep_disk"]
        return f"died: its monitor ended with status {status}", True

    async def _boot(self) -> int:
        """Run the guest once. Return its monitor's exit status."""
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        console = asyncio.create_task(self._save_console(read_end))
        with ours:
            init = await asyncio.create_subprocess_exec(
                *DIE_WITH_PARENT,
                "unshare",
                *(["--user", "--map-root-user"] if os.geteuid() else []),
                *("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "provisioner.providers.guest.namespace_init"),
                *(str(self._machine.path), str(theirs.fileno()), *self._groups),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            os.close(write_end)
            try:
                return await self._run_guest(init, ours)
            finally:
                await init.wait()
                await console

    async def _run_guest(self, init: asyncio.subprocess.Process, channel: socket.socket) -> int:
        """Give the namespaces their network, and wait until the guest ends or has to."""
        failure, fds, _, _ = await asyncio.to_thread(socket.recv_fds, channel, 1 << 12, 4)
        if not fds:
            raise StartError(failure.decode() or await self._last_log_line(init))
        pidfd, listener, network, user = fds
        servers = []
        uplink = None
        try:
            with socket.socket(fileno=listener) as listening:
                uplink = await self._start_uplink(network, user)
                if self._record["store"]:
                    servers.append(await relay.serve(listening.dup(), *self._record["store"]))
            await asyncio.to_thread(channel.sendall, json.dumps(host_addresses()).encode())
            answer = await asyncio.to_thread(channel.recv, 1 << 12)
            if answer != b"up":
                raise StartError(answer.decode() or await self._last_log_line(init))
            self._machine.set_status(RUNNING, "", os.getpid())
            _report_start("up")
            return await self._wait_for_end(init)
        finally:
            if init.returncode is None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await init.wait()
            for each in (pidfd, network, user):
                os.close(each)
            for server in servers:
                server.close()
            if uplink:
                uplink.terminate()
                await uplink.wait()

    async def _wait_for_end(self, init: asyncio.subprocess.Process) -> int:
        """Wait until the guest ended, is to be stopped or outlived its grant. Return its status; -1 while it runs."""
        ended = asyncio.create_task(init.wait())
        stop = asyncio.create_task(self._stop_requested.wait())
        seconds = max(1.0, self._record["expires"] + OVERTIME_SECONDS - time.time())
        done, _ = await asyncio.wait({ended, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not done:
            self._stop("outlived its grant")
        if ended in done:
            return ended.result()
        ended.cancel()
        return -1

    async def _start_uplink(self, network: int, user: int) -> asyncio.subprocess.Process:
        """Start the outer user-mode network, and wait until its card is there."""
        ready, report = os.pipe()
        options = ["--configure", "--mtu=65520", "--disable-host-loopback", "--cidr=10.0.3.0/24"]
        options.append(f"--ready-fd={report}")
        if os.geteuid():
            options.append(f"--userns-path=/proc/self/fd/{user}")
        process = await asyncio.create_subprocess_exec(
            *DIE_WITH_PARENT,
            *slirp_command(f"/proc/self/fd/{network}", "tap0", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[report, network, user],
        )
        os.close(report)
        answer = await asyncio.to_thread(os.read, ready, 1)
        os.close(ready)
        if not answer:
            await process.wait()
            raise StartError(await self._last_log_line(process))
        return process

    async def _last_log_line(self, init: asyncio.subprocess.Process) -> str:
        """Return why a process failed that didn't say so itself."""
        line = last_line((self._machine.path / "log").read_bytes(), "")
        return line or f"its first process ended with status {await init.wait()}"

    async def _save_console(self, descriptor: int) -> None:
        """Append what the guest prints to the console file, and keep the file small."""
        reader = asyncio.StreamReader()
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
            path = self._machine.path / "console"
            while block := await reader.read(1 << 16):
                with path.open("ab") as console:
                    console.write(block)
                    full = console.tell() > CONSOLE_BYTES
                if full:
                    path.replace(path.with_name("console.old"))


class StartError(Exception):
    """The guest could not be started; the text says why."""


def host_addresses() -> list[str]:
    """Return what the guest must not reach: the host's IPv4 addresses and link-local ones, where clouds have theirs."""
    done = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True)
    found = [each["local"] for card in json.loads(done.stdout) for each in card["addr_info"] if "local" in each]
    return [*(f"{address}/32" for address in found if not address.startswith("127.")), "169.254.0.0/16"]


def _report_start(line: str) -> None:
    """Write a line to the launcher, if it still reads, and close the pipe to it."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, f"{line}\n".encode())
    os.dup2(0, 1)  # standard input is /dev/null, open for both


def main(folder: str, lock: str) -> None:
    """Leave the launcher behind and supervise. `lock` is inherited, locked, and released by our end."""
    if os.fork():
        os._exit(0)  # the launcher has no child to wait for later
    os.setsid()
    os.chdir("/")
    fcntl.fcntl(int(lock), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    asyncio.run(Supervisor(StateDir(Path(folder))).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
