"""The ``machine`` provider: an image's root booted by systemd-nspawn on this host's kernel, in 3 to 6 seconds.

Real systemd as process 1, unmodified cloud-init, a control group and namespaces of its own. Not a security boundary as
strong as a VM's: guest and host share a kernel, and the guest's root, which can't make devices, can still mount a
devtmpfs and find the host's there. Run no job as root here that you would not run as root on the host. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

from provisioner.errors import BadInput, MissingDependency
from provisioner.providers.guest import images
from provisioner.providers.guest.provider import GuestProvider
from provisioner.providers.guest.state_dir import StateDir

DEVICES = ("/dev/net/tun", "/dev/loop-control")


class MachineProvider(GuestProvider):
    """Boots containers that behave like VMs."""

    name: ClassVar[str] = "machine"

    def _check(self, image: images.Image) -> None:
        if os.geteuid() != 0:
            hint = f"run the command with {images.sudo_prefix(self.cache)}, or use the qemu provider"
            raise MissingDependency("the machine provider needs root", hint=hint)
        images.require_programs(
            "systemd-nspawn", "slirp4netns", "mke2fs", "ip", "unshare", purpose="the machine provider"
        )
        missing = [device for device in DEVICES if not Path(device).exists()]
        if missing:
            raise MissingDependency(f"this kernel has no {missing[0]}", hint="load its module: modprobe tun loop")
        if not image.root:
            raise BadInput(f"the image {image.name} is a disk without a root", hint="the qemu provider boots it")

    def _make_disk(self, machine: StateDir, image: images.Image, size: int) -> None:
        with machine.disk.open("wb") as file:
            file.truncate(size)
        # No journal: the host's kernel outlives the guest, so nothing is lost when the guest is killed.
        options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0"]
        subprocess.run(["mke2fs", *options, str(machine.disk)], check=True, capture_output=True)
