"""What a revocation makes of a bucket policy. Pure.

Our statements are merged with what stands there. Their Sid says until when they matter, and those that outlived their
grants are swept with the next change, so that jobs don't fill the policy (AWS, "Bucket policies": 20 KB).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from provisioner.errors import BadInput
from provisioner.s3.iam import POLICY_VERSION, below, statement
from provisioner.s3.signing import Bucket

LIMIT = 20 * 1024  # bytes of a bucket policy
_Element: TypeAlias = Any  # of a policy: what JSON may hold
_SID = re.compile(r"FreepostRevoked(?P<until>[0-9]{14})(?P<job>[0-9a-f]{16})[WR]")


class PolicyFull(BadInput):
    """The bucket policy has no room for it."""


def merge(
    policy: dict[str, Any] | None,
    job: str,
    statements: Sequence[dict[str, Any]] | None,
    now: datetime,
) -> dict[str, Any] | None:
    """Put a job's statements into a bucket policy, adding to those it has; None for `statements` takes them out.

    `job` is the hash in the Sids. Ours that have outlived their grants are dropped; everybody else's stay as they
    are. Return None when no statement is left.
    """
    document = dict(policy or {"Version": POLICY_VERSION})
    kept: list[dict[str, Any]] = []
    mine: dict[str, dict[str, Any]] = {}
    for item in _statements_of(policy):
        ours = _SID.fullmatch(str(item.get("Sid", "")))
        if ours is None:
            kept.append(item)
        elif ours["job"] == job:
            mine[item["Sid"][-1]] = item
        elif ours["until"] > now.strftime("%Y%m%d%H%M%S"):
            kept.append(item)
    for item in statements or ():
        before = _normalised(mine.get(item["Sid"][-1], {}).get("Resource", []))
        mine[item["Sid"][-1]] = {**item, "Resource": _widest([*before, *item["Resource"]])}
    if statements is not None:
        kept += [mine[kind] for kind in sorted(mine)]
    return {**document, "Statement": kept} if kept else None


def statements(
    bucket: Bucket, job: str, until: datetime, writes: Sequence[str], reads: Sequence[str]
) -> list[dict[str, Any]]:
    """Deny everybody to write below `writes` and to read below `reads`; it matters until `until`."""

    def deny(kind: str, action: str, prefixes: Sequence[str]) -> dict[str, Any]:
        sid = f"FreepostRevoked{until:%Y%m%d%H%M%S}{job}{kind}"
        return statement("Deny", action, [below(bucket, each) for each in prefixes], Sid=sid, Principal="*")

    made = [deny("W", "s3:PutObject", writes)]
    return [*made, deny("R", "s3:GetObject", reads)] if reads else made


def is_denied(policy: dict[str, Any] | None, bucket: Bucket, job: str, prefix: str) -> bool:
    """Whether the job's Deny is for all that is written below `prefix`."""
    denied = below(bucket, prefix)
    for item in _statements_of(policy):
        ours = _SID.fullmatch(str(item.get("Sid", "")))
        if ours is not None and ours["job"] == job and denied in _normalised(item.get("Resource", [])):
            return True
    return False


def check_size(policy: dict[str, Any]) -> str:
    """The policy as text. Raise PolicyFull when S3 wouldn't take it."""
    text = json.dumps(policy, separators=(",", ":"))
    if len(text.encode()) > LIMIT:
        ours = sum(bool(_SID.fullmatch(str(item.get("Sid", "")))) for item in policy["Statement"])
        raise PolicyFull(
            f"the bucket policy would have {len(text.encode())} bytes; S3 allows {LIMIT}",
            hint=f"{ours} of its {len(policy['Statement'])} statements are Freepost's: `provision revoke JOB --undo` "
            "takes out those of jobs that are over, or end the signing key or session",
        )
    return text


def same(left: dict[str, Any] | None, right: dict[str, Any] | None) -> bool:
    """Compare policies as stores write them back: a list of one may come as its element."""

    def plain(policy: dict[str, Any] | None) -> list[Any]:
        return [
            {name: _normalised(value) for name, value in item.items() if name != "Sid"} | {"Sid": item.get("Sid")}
            for item in _statements_of(policy)
        ]

    return plain(left) == plain(right)


def _statements_of(policy: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The statements of a policy, of which one alone may stand without a list."""
    found = (policy or {}).get("Statement", [])
    return found if isinstance(found, list) else [found]


def _normalised(value: _Element) -> _Element:
    """A part of a statement in its long form: lists for single texts, ``*`` for everybody."""
    if isinstance(value, dict):
        return (
            ["*"]
            if value in ({"AWS": "*"}, {"AWS": ["*"]})
            else {key: _normalised(each) for key, each in value.items()}
        )
    return value if isinstance(value, list) else [value]


def _widest(resources: Sequence[str]) -> list[str]:
    """Each resource once, without those that another one covers."""
    once = dict.fromkeys(resources)
    return [
        item for item in once if not any(item != other and item.startswith(other.removesuffix("*")) for other in once)
    ]
