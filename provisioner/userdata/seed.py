"""Seeds for platforms that Freepost doesn't drive: NoCloud files in a folder, or an ISO 9660 image labelled CIDATA.

Format: cloud-init's documentation, "NoCloud". The user-data in a seed holds the grant, so nobody but the operator can
read what is written here, from its first byte on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from provisioner.errors import BadInput
from provisioner.plan.plan import Plan, TaskPlan
from provisioner.userdata import nocloud

LABEL = "cidata"  # cloud-init looks for it in either case
JOLIET = 3  # the level; its names may be long and have hyphens
ISO = ".iso"


def files(plan: Plan, task: TaskPlan, user_data: bytes) -> dict[str, bytes]:
    """Return the seed of a task, by file name.

    It has no network-config: the VM's platform decides which card there is, and cloud-init falls back to DHCP on the
    first one.
    """
    seed = nocloud.seed(f"{plan.job}-{task.task}-{task.attempt}", user_data)
    del seed["network-config"]
    return seed


def write(seed: Mapping[str, bytes], target: Path) -> None:
    """Write a seed into the folder `target`, or into an ISO if the name ends with ``.iso``.

    Files are 0600, a folder that is made is 0700. Raise BadInput when it can't be written there.
    """
    try:
        if target.suffix.lower() == ISO:
            _replace(target, iso(seed))
            return
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in seed.items():
            _replace(target / name, content)
    except OSError as error:
        raise BadInput(
            f"the seed can't be written to {target}: {error.strerror}", hint=f"name a folder, or a file with {ISO}"
        ) from None


def iso(seed: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image of a seed, with the names in Rock Ridge and in Joliet for whichever is mounted."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=JOLIET, rock_ridge="1.09")
    for number, (name, content) in enumerate(seed.items()):
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


def _replace(path: Path, content: bytes) -> None:
    """Put a file in place whole, closed to others (mkstemp makes it 0600)."""
    descriptor, temporary = tempfile.mkstemp(prefix=".seed-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).rename(path)
    except BaseException:
        Path(temporary).unlink()
        raise
