"""Images as files: what names one, what is kept, what is refused. Real ones are built and booted in tests/e2e."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from provisioner.errors import BadInput, MissingDependency, NotFound, Refused, Unreachable
from provisioner.providers.guest import images
from tests.support import guests

ROOT = Path(__file__).parents[4]
FAIL = 'echo "I: begin"; echo "E: no such mirror"; echo "E: mmdebstrap failed to run"; exit 1'
# Fills its last argument as mmdebstrap would, and counts its runs.
FILL = """
for last; do :; done
mkdir -p "$last/boot"
echo kernel >"$last/boot/vmlinuz-6.1"; echo initrd >"$last/boot/initrd.img-6.1"
echo run >>"$FREEPOST_CACHE_DIR/runs"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("FREEPOST_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mmdebstrap(tmp_path, monkeypatch):
    """Let a shell script be mmdebstrap, and whoever runs this root."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def install(script: str) -> None:
        program = programs / "mmdebstrap"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        if os.getuid():  # then nothing can be mounted: a cage in name only
            cage = programs / "unshare"
            cage.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ] || [ "$1" = private ]; do shift; done\nexec "$@"\n')
            cage.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/sbin:{os.environ['PATH']}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)

    return install


@pytest.fixture
def qemu_img():
    """Run qemu-img with these arguments."""
    if not shutil.which("qemu-img"):
        pytest.skip("needs qemu-img, of Debian's qemu-utils")
    return lambda *arguments: subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


def needs_mke2fs():
    """Skip where no file system can be made."""
    if not shutil.which("mke2fs", path="/usr/sbin:/sbin:" + os.environ["PATH"]):
        pytest.skip("needs mke2fs, of Debian's e2fsprogs")


@pytest.mark.parametrize("constant", ["PACKAGES", "KERNEL", "MASKED", "CLEAN", "CLOUD_CFG"])
def test_the_hash_covers_the_whole_recipe(monkeypatch, constant):
    """Whatever changes in the recipe, the old image is not found any more."""
    before = images.recipe_hash("bookworm")
    monkeypatch.setattr(images, constant, getattr(images, constant) + " more")
    assert images.recipe_hash("bookworm") != before


def test_suites_differ():
    """Each suite has a hash of its own, and the suite is mmdebstrap's argument before the folder."""
    assert len({images.recipe_hash(suite) for suite in images.SUITES}) == len(images.SUITES)
    assert images.recipe("trixie")[-1] == "trixie"


def test_an_image_that_was_not_built(cache):
    """Looking for a suite says which command builds it, and changes nothing."""
    with pytest.raises(NotFound) as caught:
        images.find("trixie")
    assert caught.value.hint == "run: provision image build --suite trixie"
    assert images.listing() == []
    assert not cache.exists()


@pytest.mark.parametrize("name", ["ubuntu", "../bookworm", "", "a/b", ".."])
def test_an_image_nobody_imported(cache, name):
    """A name that is no image's says what there is; a path is no name."""
    with pytest.raises(NotFound, match="there is no image"):
        images.find(name)
    assert not cache.exists()


def test_an_unknown_suite(cache):
    """Building anything but a Debian suite is refused, and the suites are named."""
    with pytest.raises(BadInput, match="buster") as caught:
        images.build("buster")
    assert "trixie" in caught.value.hint
    assert not cache.exists()


def test_missing_programs_are_named_by_package(cache, monkeypatch, tmp_path):
    """Without mmdebstrap the error says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(images, "SBIN", ())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(MissingDependency) as caught:
        images.build("bookworm")
    assert caught.value.hint == "run: apt-get install --no-install-recommends mmdebstrap e2fsprogs"
    assert not list(cache.glob("images/[!.]*"))


def test_needs_root(cache, mmdebstrap, monkeypatch):
    """Building says that it needs root, before it begins and before it asks for packages."""
    mmdebstrap(FILL)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingDependency, match="root"):
        images.build("bookworm")
    assert not list(cache.glob("images/[!.]*"))


def test_a_build_that_fails(cache, mmdebstrap, tmp_path):
    """A failed build leaves nothing, tells the first error, and all of what was said goes to the log."""
    needs_mke2fs()
    mmdebstrap(FAIL)
    with (tmp_path / "log").open("wb") as log, pytest.raises(Unreachable, match="E: no such mirror"):
        images.build("bookworm", log=log)
    assert "mmdebstrap failed to run" in (tmp_path / "log").read_text()
    assert not list(cache.glob("images/[!.]*"))
    assert [path.name for path in cache.glob("images/.making*")] == []


def test_what_is_not_the_mirrors_fault_is_not_called_so(cache, mmdebstrap):
    """Only a build that could not fetch something asks whether the mirror is reachable."""
    needs_mke2fs()
    mmdebstrap("echo 'E: write: No space left on device'; exit 1")
    with pytest.raises(Refused, match="No space left") as caught:
        images.build("bookworm")
    assert "mirror" not in caught.value.hint
    mmdebstrap("echo 'E: Failed to fetch http://deb.debian.org/debian/dists'; exit 1")
    with pytest.raises(Unreachable, match="Failed to fetch") as caught:
        images.build("bookworm")
    assert "mirror" in caught.value.hint


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
def test_no_room_for_an_image(cache, tmp_path):
    """A cache on a full disk ends a build and an import with a sentence, not with a traceback, and leaves nothing."""
    program = """
        import os, subprocess, sys
        from pathlib import Path
        from provisioner.providers.guest import images
        from provisioner.errors import Refused
        cache = Path(os.environ["FREEPOST_CACHE_DIR"])
        cache.mkdir()
        images.require_programs = lambda *_, **_more: None  # neither mmdebstrap nor mke2fs is run here
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", cache], check=True)
        images.DISK_SIZE = 1 << 20
        images.run_sandboxed = lambda command, *_: [
            (Path(command[-1]) / "boot").mkdir(parents=True),
            (Path(command[-1]) / "boot/vmlinuz-1").write_bytes(b"x" * (1 << 16)),
        ]
        try:
            images.build("bookworm")
        except Refused as error:
            print(error.message, error.hint, sorted(path.name for path in cache.glob("images/*") if path.is_dir()))
    """
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "No space left on device" in done.stdout
    assert "FREEPOST_CACHE_DIR" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_build_without_a_kernel(cache, mmdebstrap):
    """A root in which no kernel was installed is no image, and the error says so."""
    needs_mke2fs()
    mmdebstrap('for last; do :; done; mkdir -p "$last/boot"')
    with pytest.raises(Refused, match="got no vmlinuz"):
        images.build("bookworm")
    assert images.listing() == []


# Mounts a folder of the host below the one that it fills, as mmdebstrap does with /dev/shm, says so, and doesn't end.
MOUNT = """
for last; do :; done
mkdir -p "$last/dev/shm"
mount --bind "$FREEPOST_CACHE_DIR/../precious" "$last/dev/shm"
trap '' INT TERM
echo mounted >"$FREEPOST_CACHE_DIR/../mounted"
sleep 60
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_the_host_alone(cache, mmdebstrap, tmp_path, number):
    """However a build ends, mmdebstrap ends with it, no mount stays, and what was mounted below its folder is whole."""
    needs_mke2fs()
    mmdebstrap(MOUNT)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("whole")
    os.mkfifo(tmp_path / "mounted")
    program = "from provisioner.providers.guest import images; images.build('bookworm')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    build = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    try:
        assert (tmp_path / "mounted").read_text() == "mounted\n"
        build.send_signal(number)
        build.wait(20)
    finally:
        build.kill()
        build.wait()
    mmdebstrap(FILL)
    images.build("bookworm")  # takes away what the killed one left
    assert (precious / "file").read_text() == "whole"
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    guests.wait_until(lambda: not guests.command_lines(str(tmp_path / "bin")), 10)
    assert [path.name for path in cache.glob("images/.*") if path.is_dir()] == []


def test_a_build_is_kept(cache, mmdebstrap):
    """The second build finds the first one's image; a fresh one replaces it; a killed one's leavings are removed."""
    needs_mke2fs()
    mmdebstrap(FILL)
    (cache / "images" / ".making-bookworm-killed").mkdir(parents=True)
    image = images.build("bookworm")
    assert image == images.find("bookworm") == images.build("bookworm")
    assert image.kernel.read_text() == "kernel\n"
    assert image.initrd.read_text() == "initrd\n"
    assert image.disk.stat().st_size == images.DISK_SIZE
    assert image.disk.stat().st_blocks * 512 < images.DISK_SIZE / 10
    assert (cache / "runs").read_text() == "run\n"
    images.build("bookworm", fresh=True)
    assert (cache / "runs").read_text() == "run\nrun\n"
    assert [path.name for path in cache.glob("images/.*") if path.is_dir()] == []
    assert images.listing() == [image]


def test_two_builds_at_once_are_one(cache, mmdebstrap):
    """Processes that want the same image at the same time build it once."""
    needs_mke2fs()
    mmdebstrap("sleep 0.3\n" + FILL)
    program = (
        "import os; os.geteuid = lambda: 0; from provisioner.providers.guest import images; images.build('bookworm')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    builds = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(3)]
    assert [build.wait() for build in builds] == [0, 0, 0]
    assert (cache / "runs").read_text() == "run\n"


def test_an_image_in_use_stays(cache, mmdebstrap):
    """A fresh build doesn't take the image away from a machine that runs on it."""
    needs_mke2fs()
    mmdebstrap(FILL)
    folder = images.build("bookworm").disk.parent
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # as a machine's supervisor does
        with pytest.raises(Refused, match="machines run on"):
            images.build("bookworm", fresh=True)
    finally:
        os.close(descriptor)
    assert images.find("bookworm").kernel.read_text() == "kernel\n"
    assert [path.name for path in cache.glob("images/.*") if path.is_dir()] == []


def test_import(cache, qemu_img, tmp_path):
    """An imported disk is a whole copy, found by its name, for everybody to read; importing again replaces it."""
    source = tmp_path / "cloud.qcow2"
    qemu_img("create", "-f", "qcow2", source, "64M")
    image = images.import_qcow2(source, "cloud-1.0")
    assert image == images.find("cloud-1.0")
    assert (image.disk_format, image.root, image.kernel) == ("qcow2", None, None)
    assert images.virtual_size(image.disk) == 64 << 20
    assert image.disk.parent.stat().st_mode & stat.S_IROTH
    source.unlink()
    qemu_img("create", "-f", "qcow2", source, "128M")
    images.import_qcow2(source, "cloud-1.0")
    assert images.virtual_size(image.disk) == 128 << 20
    assert images.listing() == [image]
    assert len(list(cache.glob("images/imported/*"))) == 1


@pytest.mark.parametrize("name", ["bookworm", "", "..", "a/b", ".hidden", "x" * 65, "white space"])
def test_import_refuses_a_name(cache, qemu_img, tmp_path, name):
    """A name must be a plain word, and not a suite's."""
    qemu_img("create", "-f", "qcow2", tmp_path / "cloud.qcow2", "1M")
    with pytest.raises(BadInput, match="can't be called"):
        images.import_qcow2(tmp_path / "cloud.qcow2", name)
    assert not cache.exists()


def test_import_refuses_what_is_no_whole_qcow2(cache, qemu_img, tmp_path):
    """A missing file, another format, a disk on top of another and a broken one are each refused with a reason."""
    whole = tmp_path / "whole.qcow2"
    qemu_img("create", "-f", "qcow2", whole, "1M")
    qemu_img("create", "-f", "raw", tmp_path / "disk.raw", "1M")
    qemu_img("create", "-f", "qcow2", "-b", whole, "-F", "qcow2", tmp_path / "overlay.qcow2")
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(whole.read_bytes()[:64])
    for name, reason in (
        ("none.qcow2", "there is no file"),
        ("disk.raw", "not qcow2"),
        ("overlay.qcow2", "depends on another file"),
        ("broken.qcow2", "broken.qcow2"),
    ):
        with pytest.raises(BadInput, match=reason):
            images.import_qcow2(tmp_path / name, "cloud")
    assert images.listing() == []
    assert not list(cache.glob("images/imported/*"))
