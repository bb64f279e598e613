"""NoCloud seeds: the files from which cloud-init configures a machine that has no cloud around it.

Format: cloud-init's documentation, "NoCloud". The files lie in ``/var/lib/cloud/seed/nocloud/`` or on a disk
labelled CIDATA.
"""

from __future__ import annotations

import json
import re


def seed(instance_id: str, user_data: bytes, *, hostname: str = "", mac: str = "") -> dict[str, bytes]:
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
