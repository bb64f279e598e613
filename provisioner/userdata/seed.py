"""NoCloud seeds: the files from which cloud-init configures a machine that has no cloud around it.

Format: cloud-init's documentation, "NoCloud". For machines of ours the files lie in `SEED_FOLDER` or on a disk
labelled CIDATA; for platforms that Freepost doesn't drive they are written to a folder, or as an ISO 9660 image of that
label. The user-data in a seed holds the grant, so nobody but the operator can read what is written here, from its first
byte on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import atomic
from provisioner.errors import BadInput

if TYPE_CHECKING:  # a machine's first process imports this module, and is not to wait for the plan's
    from provisioner.plan.plan import Plan, TaskPlan

SEED_FOLDER = "/var/lib/cloud/seed/nocloud"  # in the guest, where cloud-init looks first
LABEL = "cidata"  # cloud-init looks for it in either case
JOLIET = 3  # the level; its names may be long and have hyphens
ISO = ".iso"


def seed_files(instance_id: str, user_data: bytes, *, hostname: str = "", mac: str = "") -> dict[str, bytes]:
    """Return the files of a seed by name; `user_data` stays as it is.

    cloud-init runs a document once per `instance_id`. `mac` names the network card by its address, for a machine
    whose kernel chooses the card's name; otherwise the card is eth0.
    """
    meta = {"instance-id": instance_id, "local-hostname": hostname or host_name(instance_id)}
    card = {"match": {"macaddress": mac}, "dhcp4": True} if mac else {"dhcp4": True}
    # Without an explicit network-config some releases configure no address in a container. JSON is YAML.
    network = {"version": 2, "ethernets": {"eth0": card}}
    return {
        "meta-data": json.dumps(meta).encode() + b"\n",
        "network-config": json.dumps(network).encode() + b"\n",
        "user-data": user_data,
        "vendor-data": b"",  # QEMU's log would otherwise hold a search for it
    }


def host_name(text: str) -> str:
    """Make a host name of `text`: at most 63 letters, digits and hyphens (RFC 1123)."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:63].rstrip("-") or "freepost"


def task_files(plan: Plan, task: TaskPlan, user_data: bytes) -> dict[str, bytes]:
    """Return the seed of a task for a platform of any kind, by file name.

    It has no network-config: the VM's platform decides which card there is, and cloud-init falls back to DHCP on the
    first one.
    """
    files = seed_files(f"{plan.job}-{task.task}-{task.attempt}", user_data)
    del files["network-config"]
    return files


def write(files: Mapping[str, bytes], target: Path) -> None:
    """Write a seed into the folder `target`, or into an ISO if the name ends with ``.iso``.

    Files are 0600, a folder that is made is 0700. Raise BadInput when it can't be written there.
    """
    try:
        if target.suffix.lower() == ISO:
            atomic.write(target, iso_image(files))
            return
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            atomic.write(target / name, content)
    except OSError as error:
        raise BadInput(
            f"the seed can't be written to {target}: {error.strerror}", hint=f"name a folder, or a file with {ISO}"
        ) from None


def iso_image(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image of a seed, with the names in Rock Ridge and in Joliet for whichever is mounted."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=JOLIET, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        image.add_fp(
            BytesIO(content),
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100600,
        )
    written = BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue()
