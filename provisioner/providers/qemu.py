"""The ``qemu`` provider: an image's disk booted by QEMU as a whole VM, with KVM when it works, else emulated.

A minute or more to boot without KVM. Runs an imported cloud image as well, by its own boot loader.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from provisioner import atomic
from provisioner.errors import MissingDependency
from provisioner.paths import cache_dir
from provisioner.providers.guest import images
from provisioner.providers.guest.provider import GuestProvider
from provisioner.providers.guest.qemu import CPU
from provisioner.providers.guest.state_dir import StateDir

PROBE_SECONDS = 15  # in which a kernel boots under KVM on any machine, many times over
LATE, LATE_SECONDS = "late", 600  # the answer of a probe that ran out of time, and how long it counts
BOOT = Path("/boot")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class QemuProvider(GuestProvider):
    """Boots VMs."""

    name: ClassVar[str] = "qemu"

    @property
    def notice(self) -> str:
        """What to expect where KVM is known not to work, or can't be tried; empty where it works."""
        slow = "so the processor is emulated: a boot takes a minute or more"
        if not _kvm_opens() or _read_answer(self.cache) in {"tcg", LATE}:
            return f"KVM does not work here, {slow}"
        if not _read_answer(self.cache) and not _find_kernel(self.cache):
            return f"there is no kernel to try KVM with, {slow}; provision image build makes one"
        return ""

    def _check(self, image: images.Image) -> None:
        images.require_programs(
            "qemu-system-x86_64", "qemu-img", "slirp4netns", "ip", "unshare", purpose="the qemu provider"
        )
        if not Path("/dev/net/tun").exists():
            raise MissingDependency("this kernel has no /dev/net/tun", hint="load its module: modprobe tun")

    def _make_disk(self, machine: StateDir, image: images.Image, size: int) -> None:
        # Never smaller than what is below it, which would cut off its end.
        size = max(size, images.virtual_size(image.disk))
        below = ["-b", str(image.disk), "-F", image.disk_format]
        command = ["qemu-img", "create", "-q", "-f", "qcow2", *below, str(machine.disk), str(size)]
        subprocess.run(command, check=True, capture_output=True)

    def _accel(self, image: images.Image) -> str:
        return "kvm" if kvm_works(image, self.cache) else "tcg"


def kvm_works(image: images.Image, cache: Path | None = None) -> bool:
    """Tell whether KVM boots a kernel here. The answer is stored until the host boots again.

    A device that opens proves nothing (nested hosts offer one on which no kernel ever starts), so a kernel is booted
    without a root file system, up to the panic for the lack of it. The kernel is the image's, any built image's, or the
    host's own. A kernel that isn't up in time may only mean a busy host: that answer counts for ten minutes.
    """
    if not _kvm_opens():
        return False
    found = _read_answer(cache)
    kernel = image.kernel or _find_kernel(cache)
    if not found and kernel:
        found = _try_kvm(kernel)
        _write_answer(found, cache)
    return found == "kvm"  # where there is nothing to try it with, emulation always works


def _find_kernel(cache: Path | None) -> Path | None:
    """Return a kernel to try KVM with: a built image's, or the host's if we may read it."""
    kernels = [each.kernel for each in images.listing(cache) if each.kernel]
    host = BOOT / f"vmlinuz-{os.uname().release}"
    return kernels[0] if kernels else host if os.access(host, os.R_OK) else None


def _write_answer(found: str, cache: Path | None) -> None:
    file = _answer_file(cache)
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in file.parent.glob("kvm-*"):
        if not old.name.startswith(file.name):  # another process may be writing the answer of this boot
            old.unlink(missing_ok=True)
    with atomic.replacing(file) as new:
        new.write(found.encode())
        os.fchmod(new.fileno(), 0o644)  # root may write it into the cache of a user, who has to read it


def _kvm_opens() -> bool:
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def _answer_file(cache: Path | None) -> Path:
    return (cache or cache_dir()) / f"kvm-{BOOT_ID.read_text().strip()}"


def _read_answer(cache: Path | None) -> str:
    """Return what `kvm_works` found since the host booted: kvm, tcg, late (for a while), or nothing yet."""
    try:
        found, when = _answer_file(cache).read_text(), _answer_file(cache).stat().st_mtime
    except FileNotFoundError:
        return ""
    return "" if found == LATE and not 0 <= time.time() - when < LATE_SECONDS else found


def _try_kvm(kernel: Path) -> str:
    """Boot a kernel under KVM. Return kvm if it booted, tcg if it failed, late if it did neither in time."""
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-m", "256", "-machine", "q35,smm=off", "-accel", "kvm", "-cpu", CPU["kvm"]),
        *("-kernel", str(kernel), "-append", "console=ttyS0 panic=-1 root=none"),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return LATE
    return "kvm" if b"Kernel panic - not syncing: VFS" in done.stdout else "tcg"
