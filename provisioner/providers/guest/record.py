"""What ``machine.json`` says of a machine: made from an order, by pure functions. Holds no secret."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from provisioner import units
from provisioner.errors import BadInput
from provisioner.providers.base import Instance, Order
from provisioner.providers.guest.images import Image

HOST = "10.0.2.2"  # what the guest calls the host's loopback
_PORTS = {"http": 80, "https": 443}


def machine_id(provider: str, token: str) -> str:
    """Name the machines of an order: the same token, the same name. It is a host name and a control group's, too."""
    return f"{provider}-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def read_options(provider: str, schema: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order's options with the defaults of the others; sizes in bytes. Raise BadInput."""
    unknown = sorted(set(given) - set(schema))
    if unknown:
        raise BadInput(f"the {provider} provider has no option {unknown[0]}", hint=f"it has: {', '.join(schema)}")
    options = {key: given.get(key, entry.get("default")) for key, entry in schema.items()}
    try:
        sizes = {key: units.size(options[key]) for key in ("memory", "disk")}
    except ValueError as error:
        raise BadInput(f"{error} is not a size", hint="write it as 512MiB or 8GiB") from None
    return {**options, **sizes}


def make_record(order: Order, instance: Instance, options: Mapping[str, Any], image: Image) -> dict[str, Any]:
    """Return what an order says of one of its machines. The provider adds what it knows of itself."""
    return {
        "id": instance.id,
        "job": order.job,
        "task": instance.task,
        "attempt": instance.attempt,
        "expires": order.expires.timestamp(),
        "image": {
            "folder": str(image.disk.parent),
            "root": str(image.root) if image.root else None,
            "disk": str(image.disk),
            "disk_format": image.disk_format,
            "kernel": str(image.kernel) if image.kernel else None,
            "initrd": str(image.initrd) if image.initrd else None,
        },
        "memory": options["memory"],
        "cpus": options["cpus"],
        "keep_disk": options["keep_disk"],
        "mac": "52:54:00:" + hashlib.sha256(instance.id.encode()).digest()[:3].hex(":"),
    }


def guest_url(url: str) -> str:
    """Return the URL by which a guest reaches what the operator reaches at `url`.

    The host's loopback is 10.0.2.2 to the guest. SigV4 signs the Host header of a presigned GET, so what a guest is
    given must be signed for this URL.
    """
    parts = urlsplit(url)
    if not _is_loopback(parts.hostname or ""):
        return url
    return parts._replace(netloc=f"{HOST}:{parts.port}" if parts.port else HOST).geturl()


def relayed_address(url: str) -> list[Any] | None:
    """Return the host and port to which the relay carries a guest's connections; None for a store on another host."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    return [name, parts.port or _PORTS.get(parts.scheme, 80)] if _is_loopback(name) else None


def _is_loopback(name: str) -> bool:
    """Tell whether a host name is this host's loopback. Other names are left to DNS in the guest."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
