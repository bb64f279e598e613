"""What the suites that boot machines share: providers, orders, and a search for anything that a machine left behind."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from provisioner.process import read_proc_file
from provisioner.providers.base import Instance, Order, Phase, Provider, State
from provisioner.providers.guest import images
from provisioner.providers.local import LocalProvider
from provisioner.providers.nspawn import MachineProvider
from provisioner.providers.qemu import QemuProvider
from provisioner.userdata.render import LAUNCHER_PATH

HELLO = "hello-from-the-guest"


@dataclass(frozen=True)
class Kind:
    """A provider as the suites make it; `patience` is the seconds of a whole boot, on a busy machine."""

    name: str
    make: Callable[[Path, str], Provider]
    patience: int
    takes_many: bool = True

    def user_data(self, script: str) -> bytes:
        """User-data that runs a shell script whose output reaches the console, and then ends the machine."""
        if self.name == "local":
            # This provider unpacks what userdata.render writes, and runs the agent's launcher.
            written = base64.b64encode(gzip.compress(f"#!/bin/sh\n{script}\n".encode(), mtime=0)).decode()
            entry = {"path": LAUNCHER_PATH, "permissions": "0755", "encoding": "gz+b64", "content": written}
            return b"#cloud-config\n" + json.dumps({"write_files": [entry]}).encode()
        return cloud_config(script)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("local", lambda folder, _: LocalProvider(folder), 30, takes_many=False),
        Kind("machine", lambda folder, endpoint: MachineProvider(endpoint, folder), 90),
        Kind("qemu", lambda folder, endpoint: QemuProvider(endpoint, folder), 500),
    )
}


def cloud_config(script: str, **more: Any) -> bytes:
    """Plain user-data: cloud-init runs the script, with the console as its output, and the machine powers off."""
    lines = {
        "write_files": [{"path": "/root/script", "permissions": "0700", "content": script}],
        "runcmd": ["sh /root/script >/dev/console 2>&1; systemctl --no-block poweroff"],
    }
    return b"#cloud-config\n" + json.dumps({**lines, **more}).encode()


def order(user_data: bytes, token: str, tasks: tuple[str, ...] = ("0",), **options: Any) -> Order:
    """An order that ends in an hour."""
    expires = datetime.now(timezone.utc) + timedelta(hours=1)
    return Order("contract", tasks, 1, token, expires, user_data, options)


def wait_for(provider: Provider, instance: Instance, phase: Phase, seconds: float) -> State:
    """Wait until a machine is in a phase. Providers are asked, not told: there is no event to wait for."""
    return wait_until(
        lambda: (state := provider.state([instance])[instance.id]).phase is phase and state,
        seconds,
        lambda: provider.console(instance)[-2000:].decode("utf-8", "replace"),
    )


def wait_until(met: Callable[[], Any], seconds: float, told: Callable[[], str] = str) -> Any:
    """Wait until `met` answers something true, and return it; fail with what `told` tells."""
    deadline = time.monotonic() + seconds
    while not (answer := met()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.05)
    return answer


def command_lines(text: str) -> list[str]:
    """Every process of the host whose command line holds `text`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = read_proc_file(int(process.name), "cmdline").replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in line:
            found.append(line)
    return found


def network_namespaces() -> set[str]:
    """Every network namespace that a process is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(process.readlink()))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def left_behind(folder: Path, names: list[str]) -> list[str]:
    """What there still is, on the host, of machines that were below `folder`: processes, mounts, groups, devices."""
    found = [f"process: {line}" for line in command_lines(str(folder))]
    found += [f"mount: {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if str(folder) in backing.read_text():
            found.append(f"loop device: {backing}")
    for name in names:
        found += [f"control group: {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{name}")]
        found += [f"control group: {path}" for path in Path("/sys/fs/cgroup").glob(name)]
        found += [f"nspawn: {path}" for path in Path("/run/systemd/nspawn").glob(f"*/{name}")]
    found += [f"nspawn: {path}" for path in Path("/tmp").glob("nspawn-root-*")]
    for home in folder.glob("*"):
        found += [f"file: {home / name}" for name in ("disk", "seed", "mnt") if (home / name).exists()]
    return found


def built(suite: str) -> images.Image:
    """The image of a suite from the user's cache, built when it isn't there. Takes two minutes then."""
    return images.build(suite)
