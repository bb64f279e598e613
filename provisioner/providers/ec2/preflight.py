"""Checks for `provision doctor` whether EC2 would launch a job, without paying for anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from provisioner.clock import iso
from provisioner.errors import Expiry, FreepostError, NoCredentials
from provisioner.providers.base import Check, Choice
from provisioner.providers.ec2 import dryrun, resolve
from provisioner.providers.ec2.api import Api

# Service Quotas, Amazon EC2: vCPUs of the standard families (A, C, D, H, I, M, R, T, Z), by market.
QUOTAS = {"on-demand": "L-1216C47A", "spot": "L-34B43A08"}
_STANDARD = re.compile(r"(?:[acdhimrtz]|im|is)[0-9]")  # hpc, inf, mac, trn and others have quotas of their own
_TOO_SHORT = timedelta(minutes=15)  # too little to launch and look after a job


def checks(api: Api, options: Mapping[str, Any], vms: int, now: datetime) -> Iterator[Check]:
    """Yield who we are, then image, places and groups, then a dry run of each choice, then the quota."""
    caller = _caller(api, now)
    yield caller
    if caller.good is False:
        return
    try:
        choices = resolve.choices(api, options)
    except FreepostError as error:
        yield Check("image, subnets and groups", good=False, text=error.message, hint=error.hint)
        return
    first = choices[0].options
    yield Check("image", good=True, text=f"{first['image']}, root device {first['root_device']}")
    placements = sorted(
        {choice.options.get("subnet") or choice.options.get("zone") or "the default VPC" for choice in choices}
    )
    yield Check(
        "places",
        good=True,
        text=", ".join(placements) + f"; security groups: {', '.join(first['security_groups']) or 'default'}",
    )
    yield from dryrun.check_choices(api, choices, now)
    yield from _quotas(api, choices, vms)


def _caller(api: Api, now: datetime) -> Check:
    """Tell whose credentials launch, and until when. A cloud that isn't AWS may have no STS: that proves nothing."""
    name = "ec2 credentials"
    try:
        ends = api.credentials_expire
        found = api.call("get_caller_identity", service="sts")
    except FreepostError as error:
        if api.endpoint_url is None and isinstance(error, (NoCredentials, Expiry)):
            return Check(name, good=False, text=error.message, hint=error.hint)
        hint = error.hint or "the lines below show whether they work"
        return Check(name, good=None, text=f"whose they are is not known: {error.message}", hint=hint)
    text = f"account {found['Account']}, {found['Arn']}, region {api.region}"
    if ends is None:
        return Check(name, good=True, text=f"{text}; long-lived")
    good = ends - now > _TOO_SHORT
    return Check(name, good=good, text=f"{text}; they end at {iso(ends)}", hint="" if good else "sign in again")


def _quotas(api: Api, choices: list[Choice], vms: int) -> Iterator[Check]:
    """Yield, for each market, whether the quota is large enough, and which types it is not known for."""
    kinds = sorted({kind for choice in choices for kind in choice.options.get("types", [choice.options.get("type")])})
    markets = list(dict.fromkeys(choice.options["market"] for choice in choices))
    try:
        described = api.call("describe_instance_types", {"InstanceTypes": kinds})["InstanceTypes"]
        sizes = {each["InstanceType"]: int(each["VCpuInfo"]["DefaultVCpus"]) for each in described}
    except FreepostError as error:
        yield Check("quota", good=None, text=error.message, hint=error.hint)
        return
    standard = [kind for kind in kinds if _STANDARD.match(kind)]
    others = [kind for kind in kinds if kind not in standard]
    if others:
        text = f"{', '.join(others)}: their family's quota is not looked up"
        yield Check("quota", good=None, text=text, hint="look it up in Service Quotas")
    if not standard:
        return
    needed = max(sizes.get(kind, 0) for kind in standard) * vms
    for market in markets:
        yield _market_quota(api, market, vms, needed)


def _market_quota(api: Api, market: str, vms: int, needed: int) -> Check:
    """Tell whether the account may run VMs of `needed` vCPUs at a time, as they are bought on this market."""
    name = f"quota, {market}"
    quota = {"ServiceCode": "ec2", "QuotaCode": QUOTAS[market]}
    try:
        allowed = int(api.call("get_service_quota", quota, service="service-quotas")["Quota"]["Value"])
    except FreepostError as error:
        hint = "the permission is servicequotas:GetServiceQuota"
        return Check(name, good=None, text=f"not readable: {error.message}", hint=hint)
    text = f"{vms} VMs need up to {needed} vCPUs; the account may run {allowed} at a time, what runs now included"
    if needed <= allowed:
        return Check(name, good=True, text=text)
    return Check(name, good=False, text=text, hint="ask for more in Service Quotas, Amazon EC2")
