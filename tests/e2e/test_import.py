"""An imported cloud image boots by its own boot loader, and finds its seed and its network by itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.providers.base import Phase
from provisioner.providers.guest import images
from provisioner.providers.qemu import QemuProvider
from tests.support import guests

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(1500)]

# Program -> Debian package. No disk is mounted and no loop device used, so this works wherever the providers do.
TOOLS = {
    "syslinux": "syslinux",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
}
MBR = "/usr/lib/syslinux/mbr/mbr.bin"
SECTOR = 512
BOOT_START, BOOT_SIZE = 2048, 128 << 20
ROOT_START, ROOT_SIZE = BOOT_START + BOOT_SIZE // SECTOR, 2 << 30
# Nothing of what the qemu provider passes to a kernel of ours: cards are named by their slot, as in a cloud image.
LOADER = """DEFAULT linux
PROMPT 0
LABEL linux
 LINUX vmlinuz
 INITRD initrd.img
 APPEND console=ttyS0 root=/dev/vda2 rw quiet mitigations=off
"""


def run(*command: object) -> None:
    """Run a program that must succeed."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def cloud_image(image: images.Image, folder):
    """Make what a distribution would publish: a qcow2 with a partition table, a boot loader and a root."""
    boot, root, disk, whole = (folder / name for name in ("boot", "root", "disk", "whole.qcow2"))
    for path, size in ((boot, BOOT_SIZE), (root, ROOT_SIZE), (disk, ROOT_START * SECTOR + ROOT_SIZE)):
        with path.open("wb") as file:
            file.truncate(size)
    run("mkfs.vfat", boot)
    (folder / "syslinux.cfg").write_text(LOADER)
    run("mcopy", "-i", boot, image.kernel, image.initrd, folder / "syslinux.cfg", "::/")
    run("syslinux", "--install", boot)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", image.root, root)
    table = (
        f"label: dos\nstart={BOOT_START}, size={BOOT_SIZE // SECTOR}, type=c, bootable\nstart={ROOT_START}, type=83\n"
    )
    subprocess.run(["sfdisk", "-q", str(disk)], input=table.encode(), check=True, capture_output=True)
    run("dd", f"if={MBR}", f"of={disk}", "bs=440", "count=1", "conv=notrunc")
    for part, start in ((boot, BOOT_START), (root, ROOT_START)):
        run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start * SECTOR >> 20}", "conv=notrunc,sparse")
    run("qemu-img", "convert", "-O", "qcow2", disk, whole)
    for path in (boot, root, disk):
        path.unlink()
    return whole


def test_an_imported_image_does_the_work(tmp_path):
    """A disk with its own boot loader is imported, boots, runs the user-data and powers off."""
    missing = sorted({package for program, package in TOOLS.items() if not shutil.which(program)})
    missing += [] if Path(MBR).exists() else ["syslinux-common"]
    if missing:
        pytest.skip(f"needs {' '.join(missing)}")
    cache = tmp_path / "cache"
    image = images.import_qcow2(cloud_image(guests.built("bookworm"), tmp_path), "own-loader", cache)
    assert image.kernel is None
    folder = tmp_path / "machines"
    provider = QemuProvider("", folder, cache)
    script = f"echo {guests.HELLO}; echo disk $(cat /sys/block/vda/size); ip -brief address show to 10.0.2.0/24"
    order = guests.order(guests.cloud_config(script), "imported", image="own-loader", disk="4GiB")
    (instance,) = provider.launch(order)
    try:
        state = guests.wait_for(provider, instance, Phase.GONE, guests.KINDS["qemu"].patience)
        said = provider.console(instance).decode("utf-8", "replace")
    finally:
        provider.terminate([instance])
    assert state.reason == "powered off", said[-2000:]
    assert guests.HELLO in said
    assert f"disk {(4 << 30) // SECTOR}" in said
    assert "10.0.2.15/24" in said
    assert guests.left_behind(folder, [instance.id]) == []
