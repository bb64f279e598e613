"""The qemu provider without a VM: when it trusts KVM, what it says of it, and which processor a guest gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from provisioner.providers import qemu
from provisioner.providers.guest import images
from provisioner.providers.guest import qemu as guest_qemu
from provisioner.providers.guest.state_dir import StateDir

PANIC = "echo 'Kernel panic - not syncing: VFS: Unable to mount root fs'"
OURS = images.Image("bookworm", Path("disk"), "raw", Path("root"), Path("vmlinuz"), Path("initrd.img"))
IMPORTED = images.Image("rocky", Path("disk.qcow2"), "qcow2")


@pytest.fixture
def probe(tmp_path, monkeypatch):
    """Let a shell script be QEMU where /dev/kvm opens; what it returns counts its runs. No host kernel is readable."""
    runs = tmp_path / "runs"

    def install(script: str):
        program = tmp_path / "bin/qemu-system-x86_64"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$*" >>{runs}\n{script}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setattr(qemu, "_kvm_opens", lambda: True)
        monkeypatch.setattr(qemu, "BOOT", tmp_path / "boot")
        return lambda: runs.read_text().splitlines() if runs.exists() else []

    return install


def test_an_answer_is_kept(probe, tmp_path):
    """A kernel that boots proves KVM, one that dies disproves it; each is tried once; an older answer is dropped."""
    for script, works in ((PANIC, True), ("echo no; exit 1", False)):
        cache = tmp_path / str(works)
        cache.mkdir()
        (cache / "kvm-of-an-earlier-boot").write_text("kvm")
        runs = probe(script)
        before = len(runs())
        assert [qemu.kvm_works(OURS, cache) for _ in range(3)] == [works] * 3
        assert len(runs()) == before + 1
        assert [path.name for path in cache.iterdir()] == [qemu._answer_file(cache).name]
        assert bool(qemu.QemuProvider("", None, cache).notice) is not works


def test_an_answer_of_root_can_be_read_by_the_user_whose_cache_it_is_in(probe, tmp_path):
    """Whatever may be in the way of new files being read, this one holds no secret and is for everybody."""
    probe(PANIC)
    before = os.umask(0o077)
    try:
        assert qemu.kvm_works(OURS, tmp_path)
    finally:
        os.umask(before)
    assert qemu._answer_file(tmp_path).stat().st_mode & 0o777 == 0o644


def test_a_busy_host_is_asked_again(probe, tmp_path, monkeypatch):
    """A probe that ran out of time holds for one launch of many tasks, not until the host boots again."""
    monkeypatch.setattr(qemu, "PROBE_SECONDS", 0.2)
    runs = probe("exec sleep 20")
    assert not qemu.kvm_works(OURS, tmp_path)
    assert not qemu.kvm_works(OURS, tmp_path)
    assert len(runs()) == 1
    monkeypatch.setattr(qemu, "PROBE_SECONDS", 20)
    probe(PANIC)
    earlier = qemu._answer_file(tmp_path).stat().st_mtime - qemu.LATE_SECONDS
    os.utime(qemu._answer_file(tmp_path), (earlier, earlier))
    assert qemu.kvm_works(OURS, tmp_path)


def test_an_imported_image_is_tried_with_the_hosts_kernel(probe, tmp_path):
    """Where no image was built the host's own kernel serves; where that can't be read, the notice says so."""
    runs = probe(PANIC)
    provider = qemu.QemuProvider("", None, tmp_path / "cache")
    assert not qemu.kvm_works(IMPORTED, tmp_path / "cache")
    assert runs() == []
    assert "no kernel to try KVM with" in provider.notice
    kernel = tmp_path / "boot" / f"vmlinuz-{os.uname().release}"
    kernel.parent.mkdir()
    kernel.write_text("kernel")
    assert provider.notice == ""
    assert qemu.kvm_works(IMPORTED, tmp_path / "cache")
    assert str(kernel) in runs()[0]


def test_probers_at_once_do_not_trip_each_other(probe, tmp_path):
    """An answer that another process is writing is not swept away with those of earlier boots."""
    probe(PANIC)
    half = qemu._answer_file(tmp_path).with_suffix(".4711")
    half.write_text("kvm")
    assert qemu.kvm_works(OURS, tmp_path)
    half.replace(qemu._answer_file(tmp_path))


@pytest.mark.parametrize(
    ("image", "accel", "cpu"),
    [(OURS, "tcg", "qemu64"), (IMPORTED, "tcg", "max"), (OURS, "kvm", "host"), (IMPORTED, "kvm", "host")],
)
def test_the_processor(tmp_path, image, accel, cpu):
    """Emulated, an imported distribution gets every instruction there is, for some don't start on the least."""
    record = {"id": "qemu-1", "accel": accel, "memory": 1 << 30, "cpus": 1, "mac": "52:54:00:00:00:01"}
    record["image"] = {
        "kernel": image.kernel and str(image.kernel), "initrd": str(image.initrd), "disk": str(image.disk),
        "disk_format": image.disk_format,
    }  # fmt: skip
    words = guest_qemu.command(StateDir(tmp_path), json.loads(json.dumps(record)), 3)
    assert words[words.index("-cpu") + 1].split(",")[0] == cpu
