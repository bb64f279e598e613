"""Bootable images for the `machine` and `qemu` providers: built from Debian's packages, or imported.

Where they lie, below the cache folder (`FREEPOST_CACHE_DIR`, else the platform's)::

    images/SUITE-HASH/root/       the root file system, which `machine` boots
    images/SUITE-HASH/disk.raw    the same as an ext4 disk, which `qemu` boots with the kernel beside it
    images/SUITE-HASH/vmlinuz, initrd.img
    images/imported/NAME/disk.qcow2   a cloud image that brings its own boot loader

HASH covers the whole recipe, so a changed recipe never finds an old image. An image is made in a temporary folder and
renamed into place under a lock; nothing changes it afterwards, because machines boot on overlays of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from provisioner.errors import BadInput, MissingDependency, NotFound, Refused
from provisioner.paths import cache_dir as default_cache
from provisioner.providers.guest.build_sandbox import run_sandboxed
from provisioner.providers.guest.commands import last_line

SUITES = ("bullseye", "bookworm", "trixie", "sid")
DEFAULT = "bookworm"  # where a job names none
DISK_SIZE = 8 << 30  # bytes of the ext4 disk; the file is sparse and holds what the root holds
SBIN = ("/usr/sbin", "/sbin")

# The packages of the host, by the program that needs them.
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "systemd-nspawn": "systemd-container",
    "slirp4netns": "slirp4netns",
    "ip": "iproute2",
    "unshare": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
}

# No datasource is looked for but the seed. An empty list of key types draws a schema warning, hence one.
CLOUD_CFG = """\
datasource_list: [NoCloud, None]
locale: C.UTF-8
ssh_genkeytypes: [ed25519]
"""
PACKAGES = "systemd-sysv,dbus,udev,cloud-init,sudo,iproute2,ca-certificates,netbase,passwd,openssh-server"
KERNEL = "initramfs-tools,zstd,kmod,e2fsprogs,linux-image-cloud-amd64"
NETWORK = {"bullseye": "ifupdown,isc-dhcp-client"}  # the others: systemd-resolved, which networkd's DHCP wants
KERNEL_FROM = {"bullseye": "/bullseye"}  # its security archive lists a kernel that it has no more
# Units that only cost time in a machine that lives for one job, or that want a terminal.
MASKED = (
    "systemd-resolved apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer "
    "systemd-logind console-getty getty@tty1"
)
CLEAN = (
    'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/resolv.conf "$1"/etc/hostname; '
    'echo nameserver 10.0.2.3 >"$1"/etc/resolv.conf; : >"$1"/etc/machine-id'
)


@dataclass(frozen=True)
class Image:
    """Something that boots. An imported disk has its own boot loader; what we build has the rest."""

    name: str
    disk: Path
    disk_format: str  # raw or qcow2, as QEMU calls them
    root: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None


def require_programs(*programs: str, purpose: str) -> None:
    """Raise MissingDependency, naming the Debian packages to install, unless every program is there."""
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    # Root by a plain `su` has no sbin in its PATH, nor has a user; from here on the programs are found there.
    os.environ["PATH"] = os.pathsep.join([*path, *(folder for folder in SBIN if folder not in path)])
    missing = [PROGRAMS[program] for program in programs if not shutil.which(program)]
    if missing:
        raise MissingDependency(
            f"{purpose} needs programs that are not installed: {', '.join(missing)}",
            hint=f"run: apt-get install --no-install-recommends {' '.join(missing)}",
        )


def recipe(suite: str, config: str = "99-local.cfg") -> list[str]:
    """Return the mmdebstrap command but its last argument, the folder to fill. `config` is a file holding CLOUD_CFG."""
    return [
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        f"--include={PACKAGES},{NETWORK.get(suite, 'systemd-resolved')},{KERNEL}{KERNEL_FROM.get(suite, '')}",
        f"--customize-hook=upload {shlex.quote(config)} /etc/cloud/cloud.cfg.d/99-local.cfg",
        '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
        f'--customize-hook=chroot "$1" systemctl mask {MASKED}',
        f"--customize-hook={CLEAN}",
        suite,
    ]


def recipe_hash(suite: str) -> str:
    """Return ten hexadecimal digits that change with anything that goes into the image but the packages' versions."""
    return hashlib.sha256(json.dumps([recipe(suite), CLOUD_CFG, DISK_SIZE]).encode()).hexdigest()[:10]


def find(name: str, cache_dir: Path | None = None) -> Image:
    """Return the image of a suite or of an imported name. Raise NotFound when it was not built or imported."""
    folder = (cache_dir or default_cache()) / "images"
    if name in SUITES:
        path = folder / f"{name}-{recipe_hash(name)}"
        if path.is_dir():
            return Image(name, path / "disk.raw", "raw", path / "root", path / "vmlinuz", path / "initrd.img")
        raise NotFound(f"the image {name} has not been built", hint=f"run: provision image build --suite {name}")
    disk = folder / "imported" / name / "disk.qcow2"
    if re.fullmatch(r"[\w.+-]{1,64}", name, re.ASCII) and disk.is_file():
        return Image(name, disk, "qcow2")
    raise NotFound(
        f"there is no image {name}",
        hint=f"name one of {', '.join(SUITES)}, or an image of `provision image import FILE.qcow2`",
    )


def listing(cache_dir: Path | None = None) -> list[Image]:
    """Return every image that `find` would find, suites first."""
    imported = (cache_dir or default_cache()) / "images" / "imported"
    names = [*SUITES, *(sorted(path.name for path in imported.iterdir()) if imported.is_dir() else ())]
    found = []
    for name in names:
        try:
            found.append(find(name, cache_dir))
        except NotFound:
            continue
    return found


def build(suite: str, cache_dir: Path | None = None, *, fresh: bool = False, log: IO[bytes] | None = None) -> Image:
    """Build the image of a suite, or find the one that this very recipe made before.

    `fresh` builds anew, for newer packages. What mmdebstrap prints goes to `log`, an open file (default: nowhere).
    Raise BadInput, MissingDependency, Unreachable, or Refused when machines run on the image to be replaced.
    """
    if suite not in SUITES:
        raise BadInput(f"there is no suite {suite!r}", hint=f"one of: {', '.join(SUITES)}")
    with contextlib.suppress(NotFound):
        if not fresh:
            return find(suite, cache_dir)
    with _locked(suite, cache_dir) as folder:
        with contextlib.suppress(NotFound):
            if not fresh:
                return find(suite, cache_dir)
        if os.geteuid() != 0:
            command = f"provision image build --suite {suite}{' --fresh' if fresh else ''}"
            raise MissingDependency("building an image needs root", hint=f"run: {sudo_prefix(cache_dir)} {command}")
        require_programs("mmdebstrap", "mke2fs", purpose="building an image")
        final = folder / f"{suite}-{recipe_hash(suite)}"
        with _temporary_folder(folder, suite) as made:
            _bootstrap(suite, made, log)
            _replace(made, final)
    return find(suite, cache_dir)


def import_qcow2(path: Path, name: str, cache_dir: Path | None = None) -> Image:
    """Copy a cloud image (Ubuntu, Debian, Rocky, …) into the cache for the `qemu` provider.

    It must be a whole, undamaged disk that depends on no other file. Raise BadInput when it isn't.
    """
    if name in SUITES or not re.fullmatch(r"[\w+-][\w.+-]{0,63}", name, re.ASCII):
        raise BadInput(
            f"an image can't be called {name!r}",
            hint=f"up to 64 letters, digits and . _ + - but none of {', '.join(SUITES)}",
        )
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    require_programs("qemu-img", purpose="importing an image")
    about = _disk_info(path)
    if about["format"] != "qcow2":
        raise BadInput(
            f"{path} is {about['format']}, not qcow2", hint=f"convert it: qemu-img convert -O qcow2 {path} image.qcow2"
        )
    if "backing-filename" in about or about.get("format-specific", {}).get("data", {}).get("data-file"):
        raise BadInput(f"{path} depends on another file", hint="flatten it: qemu-img convert -O qcow2 OLD NEW")
    with _locked("imported", cache_dir) as folder, _temporary_folder(folder, "imported") as made:
        (folder / "imported").mkdir(exist_ok=True)
        # Converting reads every cluster, drops snapshots, and leaves out what is unused.
        done = subprocess.run(
            ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path.absolute(), made / "disk.qcow2"],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise BadInput(f"{path} could not be copied: {last_line(done.stderr)}")
        _replace(made, folder / "imported" / name)
    return find(name, cache_dir)


def sudo_prefix(cache_dir: Path | None = None) -> str:
    """Return how a command begins that root runs on this user's images, and not on those of its own cache."""
    return f"sudo FREEPOST_CACHE_DIR={shlex.quote(str((cache_dir or default_cache()).absolute()))}"


def virtual_size(disk: Path) -> int:
    """Return the size of a disk as its guest sees it, in bytes."""
    return int(_disk_info(disk)["virtual-size"])


def _bootstrap(suite: str, made: Path, log: IO[bytes] | None) -> None:
    config = made / "99-local.cfg"
    config.write_text(CLOUD_CFG)
    root = made / "root"
    run_sandboxed([*recipe(suite, str(config)), str(root)], log, f"the image {suite} could not be built")
    config.unlink()
    for kernel, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
        found = sorted((root / "boot").glob(kernel))
        if not found:
            raise Refused(f"the image {suite} got no {name}", hint="build it with --verbose to see why")
        shutil.copyfile(found[-1], made / name)
    disk = made / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
    options = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root)]
    run_sandboxed(["mke2fs", *options, str(disk)], log, f"the disk of the image {suite} could not be made")


def _disk_info(path: Path) -> dict[str, Any]:
    done = subprocess.run(["qemu-img", "info", "--output=json", path.absolute()], capture_output=True, check=False)
    if done.returncode:
        raise BadInput(f"{path} is not a disk image: {last_line(done.stderr)}")
    about: dict[str, Any] = json.loads(done.stdout)
    return about


@contextlib.contextmanager
def _locked(name: str, cache_dir: Path | None) -> Iterator[Path]:
    """Hold the lock of one image and give the folder of all. Raise Refused when something can't be written there."""
    folder = (cache_dir or default_cache()) / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    except OSError as error:
        hint = f"check that {folder} is yours and has room, or name another cache folder by FREEPOST_CACHE_DIR"
        raise Refused(f"the image could not be written: {error}", hint=hint) from None


@contextlib.contextmanager
def _temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder on the same file system that is gone afterwards, unless it was renamed. Under the lock of `name`."""
    for stale in folder.glob(f".making-{name}-*"):  # of a build that was killed; what it mounted went with it
        shutil.rmtree(stale)
    made = Path(tempfile.mkdtemp(prefix=f".making-{name}-", dir=folder))
    made.chmod(0o755)  # mmdebstrap's apt user reads below it; nothing in an image is secret
    try:
        yield made
    finally:
        if made.exists():
            shutil.rmtree(made)


def _replace(made: Path, final: Path) -> None:
    """Put a finished folder in the place of an older one, on which no machine may run: they hold its lock."""
    if not final.exists():
        made.rename(final)
        return
    descriptor = os.open(final, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        old = made.with_name(made.name + "-old")
        final.rename(old)
        made.rename(final)
        shutil.rmtree(old)
    except BlockingIOError:
        raise Refused(f"machines run on the image {final.name}", hint="terminate them, then build again") from None
    finally:
        os.close(descriptor)
