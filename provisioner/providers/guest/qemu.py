"""A guest of the `qemu` provider: a whole VM with its own kernel, booted from an overlay of the image's disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from typing import Any

from provisioner.providers.guest.commands import POWERED_OFF, REBOOT, exit_status, last_line
from provisioner.providers.guest.state_dir import StateDir

DIED = 1  # the status of a guest that was killed and left none
CPU = {"kvm": "host,-arch-capabilities", "tcg": "qemu64"}
# Slower than qemu64 under TCG, but what a distribution may need: that of Rocky 9 does not start below x86-64-v2.
CPU_IMPORTED = {"kvm": CPU["kvm"], "tcg": "max"}
# The seed disk is read by blkid in the guest, so its label is all that matters.
COMMAND_LINE = (
    "console=ttyS0 root=/dev/vda rw panic=-1 quiet loglevel=0 systemd.show_status=0 mitigations=off audit=0 nokaslr "
    "apparmor=0 net.ifnames=0"
)


class QemuGuest:
    """A running QEMU and its monitor, which tells a reboot from a power-off (QEMU's docs/interop/qmp-spec)."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: socket.socket) -> None:
        self._process = process
        self._monitor = monitor.makefile("rw", encoding="utf-8")

    def connect(self) -> bool:
        """Have QEMU report events from now on. Return False if it didn't start."""
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
        status = exit_status(self._process)
        return {"guest-shutdown": POWERED_OFF, "guest-reset": REBOOT}.get(reason, status or DIED)


def start(machine: StateDir, record: dict[str, Any]) -> QemuGuest:
    """Start QEMU on the machine's disk and seed. Runs in the machine's own namespaces."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                command(machine, record, theirs.fileno()),
                stdin=subprocess.DEVNULL,  # its errors go to the supervisor's log
                pass_fds=[theirs.fileno()],
                env={"PATH": os.environ["PATH"]},
            )
        guest = QemuGuest(process, ours)
    if not guest.connect():
        exit_status(process)
        raise OSError(last_line((machine.path / "log").read_bytes(), ""))
    return guest


def command(machine: StateDir, record: dict[str, Any], monitor: int) -> list[str]:
    """Return the QEMU command of a machine; `monitor` is the descriptor of an open socket."""
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
        *("-blockdev", json.dumps(_overlay_disk(machine, image))),
        *("-device", "virtio-blk-pci,drive=disk" + ("" if own_kernel else ",bootindex=0")),
        *("-blockdev", json.dumps(_seed_disk(machine))),
        *("-device", "virtio-blk-pci,drive=seed"),
        *("-netdev", "user,id=net,ipv6=off"),
        *("-device", f"virtio-net-pci,netdev=net,mac={record['mac']},romfile="),
        *("-device", "virtio-rng-pci"),
    ]


def _overlay_disk(machine: StateDir, image: dict[str, Any]) -> dict[str, Any]:
    base = {"driver": image["disk_format"], "file": {"driver": "file", "filename": image["disk"]}, "read-only": True}
    return {
        "driver": "qcow2",
        "node-name": "disk",
        "file": {"driver": "file", "filename": str(machine.disk)},
        "backing": base,
    }


def _seed_disk(machine: StateDir) -> dict[str, Any]:
    return {"driver": "vvfat", "node-name": "seed", "dir": str(machine.seed), "label": "CIDATA", "read-only": True}
