"""Machines as folders, without booting any: what a launch that fails leaves, and launches at the same time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from provisioner.errors import MissingDependency, Refused
from provisioner.providers.guest import images, supervisor_client
from provisioner.providers.guest import provider as guest_provider
from provisioner.providers.guest.state_dir import GONE, StateDir
from provisioner.providers.nspawn import MachineProvider
from provisioner.providers.qemu import QemuProvider
from tests.support import guests

SECRET = b"#cloud-config\n# the-grant\n"
IMAGE = images.Image("bookworm", Path("/images/disk.raw"), "raw", Path("/images/root"), Path("/k"), Path("/i"))


@pytest.fixture
def kind(request, tmp_path, monkeypatch):
    """A provider that takes the host for able, and an image that isn't there for built."""

    def make(kind=MachineProvider):
        monkeypatch.setattr(images, "find", lambda *_: IMAGE)
        monkeypatch.setattr(kind, "_check", lambda *_: None)
        monkeypatch.setattr(kind, "_accel", lambda *_: "tcg")
        monkeypatch.setattr(images, "virtual_size", lambda _: 0)
        return kind("", tmp_path / "machines")

    return make


def fake(name, folder, monkeypatch, script):
    """Let a shell script be a program."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(("provider", "program"), [(MachineProvider, "mke2fs"), (QemuProvider, "qemu-img")])
def test_a_disk_that_cannot_be_made(kind, tmp_path, monkeypatch, provider, program):
    """Where the host's disk is full a launch ends with a sentence, and leaves neither folder nor grant."""
    fake(program, tmp_path, monkeypatch, "echo 'No space left on device' >&2; exit 1")
    with pytest.raises(Refused, match=f"{program}: No space left on device"):
        kind(provider).launch(guests.order(SECRET, "full"))
    assert list((tmp_path / "machines").iterdir()) == []


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_launch_that_is_cut_off(kind, tmp_path, monkeypatch, fault):
    """However a launch fails once the grant is on the disk, the grant goes again."""
    fake("mke2fs", tmp_path, monkeypatch, "true")

    def fail(home):
        assert SECRET in (home.seed / "user-data").read_bytes()
        raise fault

    monkeypatch.setattr(supervisor_client, "start", fail)
    with pytest.raises(Refused if isinstance(fault, OSError) else KeyboardInterrupt):
        kind().launch(guests.order(SECRET, "cut"))
    assert list((tmp_path / "machines").iterdir()) == []


def test_what_a_killed_launch_left_goes_with_the_next(kind, tmp_path, monkeypatch):
    """A folder with a grant that never became a machine, and one half deleted, are removed; one in hand is not."""
    provider = kind()
    folder = tmp_path / "machines"
    left, held = StateDir(folder / "machine-left-0"), StateDir(folder / "machine-held-0")
    for home in (left, held):
        with home.exclusive():
            home.prepare({"provider": "machine"}, {"user-data": SECRET})
    half = folder / ".removed-xyz/machine-half-0/seed"
    half.mkdir(parents=True)
    assert provider.list_resources() == []
    with held.exclusive():
        provider._remove_stale()
        assert [path.name for path in folder.iterdir()] == ["machine-held-0"]
    provider._remove_stale()
    assert list(folder.iterdir()) == []


def test_launches_at_once_forget_the_old_together(kind, tmp_path):
    """Several processes that forget the same old machines do so without a fault."""
    provider = kind()
    for number in range(50):
        home = StateDir(tmp_path / f"machines/machine-{number}-0")
        with home.exclusive():
            home.prepare({"provider": "machine"}, {"user-data": SECRET})
            home.set_status(GONE, "powered off")
        old = time.time() - guest_provider.REMEMBERED_SECONDS - 60
        os.utime(home.path / "state.json", (old, old))
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(provider._remove_stale) for _ in range(8)]:
            done.result()
    assert list((tmp_path / "machines").iterdir()) == []


def test_who_waits_for_a_machine_that_goes_gets_a_new_one(tmp_path):
    """A launch that waits while another's fails, and is taken away, goes on in a folder of its own."""
    home = StateDir(tmp_path / "machine-0")
    waiting, got = threading.Event(), threading.Event()

    def second():
        waiting.set()
        with home.exclusive():
            home.prepare({"provider": "machine"}, {"user-data": SECRET})
            got.set()

    with home.exclusive():
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        assert not got.wait(0.2)
        home.remove()
    thread.join()
    assert (home.seed / "user-data").read_bytes() == SECRET
    assert home.exists()


def test_the_hint_for_root_names_the_users_images(monkeypatch, tmp_path):
    """What is to be run with sudo finds the images that this user has, not root's own."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))  # that root is needed comes before what is to be installed
    cache = tmp_path / "my images"
    with pytest.raises(MissingDependency) as caught:
        MachineProvider("", tmp_path, cache)._check(IMAGE)
    assert f"sudo FREEPOST_CACHE_DIR='{cache}'" in caught.value.hint
    with pytest.raises(MissingDependency) as caught:
        images.build("bookworm", cache)
    assert caught.value.hint == f"run: sudo FREEPOST_CACHE_DIR='{cache}' provision image build --suite bookworm"


def test_programs_of_root_are_found(monkeypatch, tmp_path):
    """A PATH without sbin, as plain `su` gives, hides nothing: what is there is found and run."""
    sbin = tmp_path / "sbin"
    fake("mke2fs", tmp_path, monkeypatch, "echo made")
    (tmp_path / "bin").rename(sbin)
    monkeypatch.setattr(images, "SBIN", (str(sbin),))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    images.require_programs("mke2fs", purpose="A disk")
    assert subprocess.run(["mke2fs"], check=True, capture_output=True).stdout == b"made\n"
