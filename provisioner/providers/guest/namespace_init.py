"""The first process of a machine's own namespaces: makes its network and runs the guest; when it ends, all else does.

Run as ``python -m provisioner.providers.guest.namespace_init FOLDER FD GROUP…`` by the supervisor, as process 1 of new
pid, mount and network namespaces; FD is a socket to the supervisor, GROUP a control group's folder to join. When this
process ends, the kernel kills what is left in the namespaces and drops their mounts and network: nothing can leak.

The network, from the outside in::

    host | slirp4netns: tap0, 10.0.3.0/24, no way to the host's loopback
         | this namespace: routes that prohibit the host's own addresses and link-local ones; on its loopback,
         |   only the relay to the store
         | slirp4netns (machine) or QEMU's user network (qemu): 10.0.2.0/24, where 10.0.2.2 is the loopback above
         | the guest

So the guest reaches the store at 10.0.2.2, what lies beyond the host, and of the host nothing. It can't change that:
even its root has no hold on this namespace.

Exit status: that of the guest's monitor, where 133 asks for another boot (systemd-nspawn's own convention).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from provisioner.providers.guest import cgroup, nspawn, qemu
from provisioner.providers.guest.commands import describe_failure, run_quietly
from provisioner.providers.guest.state_dir import StateDir

RESOLVER = "10.0.3.3"  # the outer slirp4netns answers DNS here
SETUP_FAILED = 125


def main(folder: str, descriptor: str, *groups: str) -> int:
    """Set up the machine and wait for its end. Report to the supervisor what fails before the guest runs."""
    supervisor = socket.socket(fileno=int(descriptor))
    supervisor.set_inheritable(False)
    try:
        cgroup.join(groups)
        guest = _set_up(StateDir(Path(folder)), supervisor)
    except (OSError, subprocess.CalledProcessError) as error:
        supervisor.sendall(describe_failure(error).encode())
        return SETUP_FAILED
    supervisor.sendall(b"up")
    return guest.wait()


def _set_up(machine: StateDir, supervisor: socket.socket) -> nspawn.NspawnGuest | qemu.QemuGuest:
    record = machine.read_record()
    run_quietly("ip", "link", "set", "lo", "up")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", record["store"][1] if record["store"] else 0))
        listener.listen(128)
        namespaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("net", "user")]
        pidfd = os.pidfd_open(os.getpid())
        socket.send_fds(supervisor, [b"fds"], [pidfd, listener.fileno(), *namespaces])
        for each in (pidfd, *namespaces):
            os.close(each)
    prohibited = json.loads(supervisor.recv(1 << 16))  # arrives when tap0 is there
    for address in prohibited:
        run_quietly("ip", "route", "add", "prohibit", address)
    _use_outer_resolver(machine)
    return nspawn.start(machine, record) if record["provider"] == "machine" else qemu.start(machine, record)


def _use_outer_resolver(machine: StateDir) -> None:
    """Let the inner network's DNS ask the outer one: the host's own resolver may be out of reach from in here."""
    if Path("/etc/resolv.conf").exists():
        ours = machine.path / "resolv.conf"
        ours.write_text(f"nameserver {RESOLVER}\n")
        run_quietly("mount", "--bind", str(ours), "/etc/resolv.conf")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
