"""The first process of a machine's own namespaces: makes its network, starts the guest, takes all along when it ends.

Run as ``python -m provisioner.providers.guest.namespace_init HOME FD GROUP…`` by the supervisor, as process 1 of new
pid, mount and network namespaces; FD is a socket to the supervisor, GROUP a control group's folder to join. When this
process ends, the kernel kills whatever is left in the namespaces and drops their mounts and network: nothing can leak.

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

from provisioner.providers.guest import cgroup, nspawn, vm
from provisioner.providers.guest.commands import run, said
from provisioner.providers.guest.state_dir import Home

RESOLVER = "10.0.3.3"  # the outer slirp4netns answers DNS here
SETUP_FAILED = 125


def main(home_path: str, descriptor: str, *groups: str) -> int:
    """Become the machine. The supervisor is told of what went wrong before the guest ran."""
    supervisor = socket.socket(fileno=int(descriptor))
    supervisor.set_inheritable(False)
    try:
        cgroup.join(groups)
        guest = _set_up(Home(Path(home_path)), supervisor)
    except (OSError, subprocess.CalledProcessError) as error:
        supervisor.sendall(said(error).encode())
        return SETUP_FAILED
    supervisor.sendall(b"up")
    return guest.wait()


def _set_up(home: Home, supervisor: socket.socket) -> nspawn.Guest | vm.Guest:
    record = home.record()
    run("ip", "link", "set", "lo", "up")
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
        run("ip", "route", "add", "prohibit", address)
    _resolve(home)
    return nspawn.start(home, record) if record["provider"] == "machine" else vm.start(home, record)


def _resolve(home: Home) -> None:
    """Let the inner network's DNS ask the outer one: the host's own resolver may be out of reach from in here."""
    if Path("/etc/resolv.conf").exists():
        ours = home.path / "resolv.conf"
        ours.write_text(f"nameserver {RESOLVER}\n")
        run("mount", "--bind", str(ours), "/etc/resolv.conf")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
