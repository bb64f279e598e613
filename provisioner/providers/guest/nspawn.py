"""A guest of the `machine` provider: systemd-nspawn boots an overlay of the image's root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from provisioner.providers.guest.cgroup import MAX_PROCESSES
from provisioner.providers.guest.commands import exit_status, run_quietly, slirp_command
from provisioner.providers.guest.state_dir import StateDir
from provisioner.userdata.seed import SEED_FOLDER


class NspawnGuest:
    """A running systemd-nspawn."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait(self) -> int:
        """Wait for the guest's end: 0 when it powered off, 133 when it wants another boot."""
        return exit_status(self._process)


def start(machine: StateDir, record: dict[str, Any]) -> NspawnGuest:
    """Mount the root, make the guest's network, and start. Runs in the machine's own namespaces."""
    work = machine.path / "mnt"
    work.mkdir(exist_ok=True)
    run_quietly("mount", "-t", "tmpfs", "-o", "mode=0700,size=1m", "freepost", str(work))
    # What nspawn leaves here when it is killed goes with our mount namespace.
    Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    run_quietly("mount", "-t", "tmpfs", "-o", "mode=0755,size=1m", "freepost", "/run/systemd/nspawn")
    root = _mount_root(machine, record, work)
    _copy_seed(machine, root)
    network = _make_network(work)
    return NspawnGuest(
        subprocess.Popen(
            [
                "systemd-nspawn",
                "--quiet",
                f"--directory={root}",
                "--boot",
                "--register=no",  # no machined is needed
                "--keep-unit",  # we are in our own control group
                f"--network-namespace-path={network}",
                "--capability=CAP_NET_ADMIN",  # or the guest can't configure its card
                "--drop-capability=CAP_MKNOD",  # it makes no device; what it still can: providers/nspawn.py
                f"--machine={record['id']}",
                "--resolv-conf=off",
                "--timezone=off",
                "--link-journal=no",
                "--oom-score-adjust=500",  # when memory runs out, the guest's processes go before ours
                # systemd's TasksMax can't be set here, as controllers aren't delegated; this is its default share.
                f"--rlimit=RLIMIT_NPROC={MAX_PROCESSES * 15 // 100}",
                "--console=read-only",  # a terminal in the guest, of which we see the output
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,  # what nspawn prints belongs to the console
            env={
                "PATH": os.environ["PATH"],
                # Guests of systemd 256 and later don't start under cgroup v1.
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            },
        )
    )


def _mount_root(machine: StateDir, record: dict[str, Any], work: Path) -> Path:
    """Mount the machine's disk, and an overlay on it of the image. It is all undone with our mount namespace."""
    for name in ("lower", "disk", "root"):
        (work / name).mkdir()
    run_quietly("mount", "-o", "loop,noatime", str(machine.disk), str(work / "disk"))
    for name in ("upper", "work"):
        (work / "disk" / name).mkdir(exist_ok=True)
    # Relative names: commas and colons in the cache folder's path would be taken for options.
    run_quietly("mount", "--bind", record["image"]["root"], "lower", cwd=str(work))
    layers = "lowerdir=lower,upperdir=disk/upper,workdir=disk/work"
    run_quietly("mount", "-t", "overlay", "-o", layers, "freepost", "root", cwd=str(work))
    return work / "root"


def _copy_seed(machine: StateDir, root: Path) -> None:
    """Put the seed where cloud-init looks first, closed to everybody in the guest but root."""
    folder = root / SEED_FOLDER.lstrip("/")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in machine.seed.iterdir():
        copy = folder / file.name
        copy.touch(mode=0o600)
        copy.write_bytes(file.read_bytes())


def _make_network(work: Path) -> Path:
    """Make the guest's network namespace with a card in it; its user-mode network runs in ours."""
    network = work / "net"
    network.touch()
    run_quietly("unshare", f"--net={network}", "true")
    ready, report = os.pipe()
    with os.fdopen(ready, "rb") as answer:
        process = subprocess.Popen(
            slirp_command(str(network), "eth0", "--mtu=1500", f"--ready-fd={report}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # an endless list of connections
            pass_fds=[report],
        )
        os.close(report)
        if not answer.read(1):
            failure = b"could not make the guest's network"
            raise subprocess.CalledProcessError(process.wait(), ["slirp4netns"], stderr=failure)
    run_quietly("nsenter", f"--net={network}", "ip", "link", "set", "eth0", "up")
    return network
