"""A guest of the `qemu` provider: a whole VM with its own kernel, booted from an overlay of the image's disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Any

from provisioner.providers.guest.commands import POWERED_OFF, REBOOT, wait_for
from provisioner.providers.guest.state_dir import Home

LOST = 1
CPU = {"kvm": "host,-arch-capabilities", "tcg": "qemu64"}
# Slower than qemu64 under TCG, but what a distribution may need: that of Rocky 9 does not start below x86-64-v2.
CPU_IMPORTED = {"kvm": CPU["kvm"], "tcg": "max"}
# The seed disk is read by blkid in the guest, so its label is all that matters.
COMMAND_LINE = (
    "console=ttyS0 root=/dev/vda rw panic=-1 quiet loglevel=0 systemd.show_status=0 mitigations=off audit=0 nokaslr "
    "apparmor=0 net.ifnames=0"
)


class Guest:
    """A running QEMU and its monitor, which tells a reboot from a power-off. Protocol: QEMU's docs/interop/qmp-spec."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: socket.socket) -> None:
        self._process = process
        self._monitor = monitor.makefile("rw", encoding="utf-8")

    def greet(self) -> bool:
        """Tell whether QEMU has started, and have it report events from now on."""
        try:
            if not self._monitor.readline():
                return False
            self._monitor.write('{"execute": "qmp_capabilities"}\n')
            self._monitor.flush()
        except ConnectionError:
            return False
        return True

    def wait(self) -> int:
        """Wait for the guest's end: 0 when it powered off, 133 when it wants another boot, anything else: it died."""
        reason = ""
        try:
            for line in self._monitor:
                message = json.loads(line)
                if message.get("event") == "SHUTDOWN":
                    reason = message["data"]["reason"]
        except ConnectionError:
            reason = ""  # QEMU was killed
        status = wait_for(self._process)
        return {"guest-shutdown": POWERED_OFF, "guest-reset": REBOOT}.get(reason, status or LOST)


def start(home: Home, record: dict[str, Any]) -> Guest:
    """Start QEMU on the machine's disk and seed. Runs in the machine's own namespaces."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                command(home, record, theirs.fileno()),
                stdin=subprocess.DEVNULL,  # its errors go to the supervisor's log
                pass_fds=[theirs.fileno()],
                env={"PATH": os.environ["PATH"]},
            )
        guest = Guest(process, ours)
    if not guest.greet():
        wait_for(process)
        log = (home.path / "log").read_text(errors="replace").strip()
        raise OSError(log.rpartition("\n")[2])
    return guest


def command(home: Home, record: dict[str, Any], monitor: int) -> list[str]:
    """The QEMU command of a machine; `monitor` is an open socket."""
    image, accel = record["image"], record["accel"]
    own_kernel = []
    if image["kernel"]:
        own_kernel = ["-kernel", image["kernel"], "-initrd", image["initrd"], "-append", COMMAND_LINE]
    return [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",  # the supervisor boots it again, as it does for a container
        *("-display", "none"),
        *("-name", record["id"]),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "q35,smm=off" if accel == "kvm" else "q35"),
        *("-accel", accel),
        *("-cpu", (CPU if own_kernel else CPU_IMPORTED)[accel]),
        *("-m", f"{record['memory'] >> 20}M"),
        *("-smp", str(record["cpus"])),
        *("-serial", "stdio"),
        *("-chardev", f"socket,id=monitor,fd={monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *own_kernel,
        *("-blockdev", json.dumps(_overlay(home, image))),
        *("-device", "virtio-blk-pci,drive=disk" + ("" if own_kernel else ",bootindex=0")),
        *("-blockdev", json.dumps(_seed(home))),
        *("-device", "virtio-blk-pci,drive=seed"),
        *("-netdev", "user,id=net,ipv6=off"),
        *("-device", f"virtio-net-pci,netdev=net,mac={record['mac']},romfile="),
        *("-device", "virtio-rng-pci"),
    ]


def _overlay(home: Home, image: dict[str, Any]) -> dict[str, Any]:
    below = {"driver": image["disk_format"], "file": {"driver": "file", "filename": image["disk"]}, "read-only": True}
    return {
        "driver": "qcow2",
        "node-name": "disk",
        "file": {"driver": "file", "filename": str(home.disk)},
        "backing": below,
    }


def _seed(home: Home) -> dict[str, Any]:
    return {"driver": "vvfat", "node-name": "seed", "dir": str(home.seed), "label": "CIDATA", "read-only": True}
