"""From a job's options to what may be ordered, the best first: types × placements × markets, everything by id.

A placement is where VMs may go: a subnet with its zone, a zone, or nothing, where EC2 chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.errors import BadInput, NotFound
from provisioner.providers.base import Choice
from provisioner.providers.ec2.api import Api
from provisioner.providers.ec2.options import IMAGE, TYPE

_PASSED_ON = ("key", "instance_profile", "disk", "tags")


def choices(api: Api, options: Mapping[str, Any]) -> list[Choice]:
    """Resolve the options. For each market, every type in every placement; with ``fleet``, one choice a market."""
    fixed = {
        **find_image(api, options.get("image", IMAGE)),
        "security_groups": find_groups(api, options.get("security_groups", ())),
        **{key: options[key] for key in _PASSED_ON if options.get(key)},
    }
    kinds, markets = options.get("type", (TYPE,)), options.get("market", ("on-demand",))
    placements = find_placements(api, options)
    if options.get("fleet"):
        together = {
            "fleet": True,
            "types": list(kinds),
            "places": [_fleet_override(placement) for placement in placements],
        }
        return [Choice(f"a fleet, {market}", {**fixed, **together, "market": market}) for market in markets]
    return [
        Choice(_choice_name(kind, placement, market), {**fixed, **placement, "type": kind, "market": market})
        for market in markets
        for kind in kinds
        for placement in placements
    ]


def _choice_name(kind: str, placement: Mapping[str, str], market: str) -> str:
    where = " ".join(placement.values())
    return f"{kind}{' in ' * bool(where)}{where}, {market}"


def _fleet_override(placement: Mapping[str, str]) -> dict[str, str]:
    if "subnet" in placement:
        return {"SubnetId": placement["subnet"]}
    return {"AvailabilityZone": placement["zone"]} if placement else {}


def find_image(api: Api, wanted: str) -> dict[str, Any]:
    """Return the image's id, the name of its root device and the GiB of it. Raise NotFound or BadInput."""
    if wanted.startswith("ssm:"):
        answer = api.call("get_parameter", {"Name": wanted.removeprefix("ssm:")}, service="ssm")
        found = _describe_images(api, {"ImageIds": [answer["Parameter"]["Value"]]})
    elif wanted.startswith("ami-"):
        found = _describe_images(api, {"ImageIds": [wanted]})
    else:
        owner, _, name = wanted.partition("/")
        alive = [{"Name": "name", "Values": [name]}, {"Name": "state", "Values": ["available"]}]
        found = _describe_images(api, {"Owners": [owner], "Filters": alive})
    if not found:
        raise NotFound(f"there is no image {wanted} in {api.region}", hint="correct vm.image, or vm.region")
    newest = max(found, key=lambda image: str(image.get("CreationDate", "")))
    root = newest.get("RootDeviceName") or "/dev/xvda"
    disks = {each.get("DeviceName"): each.get("Ebs", {}) for each in newest.get("BlockDeviceMappings", ())}
    size = disks.get(root, {}).get("VolumeSize")
    return {"image": newest["ImageId"], "root_device": root, **({"disk": size} if size else {})}


def _describe_images(api: Api, wanted: Mapping[str, Any]) -> Sequence[Any]:
    images: Sequence[Any] = api.call("describe_images", wanted)["Images"]
    return images


def find_placements(api: Api, options: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return where VMs may go, the best first. Raise NotFound or BadInput for subnets that aren't there."""
    zones = options.get("zones", ())
    if not options.get("subnets"):
        return [{"zone": zone} for zone in zones] or [{}]
    found = []
    for wanted in options["subnets"]:
        subnets = api.call("describe_subnets", _by_id_or_tag(wanted, "SubnetIds"))["Subnets"]
        if not subnets:
            raise NotFound(f"there is no subnet {wanted} in {api.region}", hint="correct vm.subnets")
        found += [{"subnet": each["SubnetId"], "zone": each["AvailabilityZone"]} for each in subnets]
    matching = [placement for placement in found if not zones or placement["zone"] in zones]
    if not matching:
        raise BadInput(f"no subnet of vm.subnets is in {', '.join(zones)}", hint="correct vm.zones or vm.subnets")
    return matching


def find_groups(api: Api, wanted: Sequence[str]) -> list[str]:
    """Return the ids of security groups."""
    found: list[str] = []
    for each in wanted:
        if each.startswith("sg-"):
            found.append(each)
            continue
        groups = api.call("describe_security_groups", _by_id_or_tag(each, "GroupIds"))["SecurityGroups"]
        if not groups:
            raise NotFound(f"there is no security group {each} in {api.region}", hint="correct vm.security_groups")
        found += [group["GroupId"] for group in groups]
    return found


def _by_id_or_tag(wanted: str, ids: str) -> dict[str, Any]:
    """Name something by its id, or by ``tag:KEY=VALUE``."""
    if not wanted.startswith("tag:"):
        return {ids: [wanted]}
    key, _, value = wanted.partition("=")
    return {"Filters": [{"Name": key, "Values": [value]}]}
