"""Ends a job's grants before they expire: a Deny on the job's prefix in the bucket policy, and a proof that it holds.

A signed form or URL can't be taken back. What can be done is to forbid what it does to everybody: the VM's writes below
``out/`` and ``status/``, and its reads below ``inputs/`` and ``mail/``. Reading results stays allowed.

The statements are merged with what stands in the policy. Their Sid says until when they matter, and those that
outlived their grants are swept with the next change, so that jobs don't fill the policy (AWS, "Bucket policies":
20 KB). S3 has no compare-and-swap for policies: what was written is read back, and written again if somebody else's
change swallowed it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from provisioner import preflight
from provisioner.errors import BadInput, FreepostError, Refused
from provisioner.keys import JobKeys
from provisioner.output import Event, Report
from provisioner.plan import iso
from provisioner.policy import sign_prefix
from provisioner.record import JobRecord
from provisioner.signer import arn, literal
from provisioner.store import Store

LIMIT = 20 * 1024  # bytes of a bucket policy
PROOF_SECONDS = 15.0  # AWS applies a changed policy within seconds
_TRIES = 4
_SID = re.compile(r"FreepostRevoked(?P<until>[0-9]{14})(?P<job>[0-9a-f]{16})[WR]")
CANNOT = (
    "this can't stop what is stored or read already, nor a transfer under way, nor end the VMs (`provision terminate`)"
)


def revoke(store: Store, record: JobRecord, now: datetime, sleep: Callable[[float], None] = time.sleep) -> Event:
    """Forbid everything that the job's VMs were granted, any task and attempt, and prove it with a form.

    Safe to repeat. Raise Refused for a store without bucket policies, or one that doesn't apply them to forms.
    """
    keys = JobKeys(store.prefix, record.job)
    until = f"until {iso(record.expires)}"
    if record.expires <= now:
        text = f"{record.job}: nothing to revoke, its grants lived {until}"
        return Event("revoked", text, {"job": record.job, "changed": False})
    writes, reads = [f"{keys.root}out/", keys.status_root], [f"{keys.root}inputs/", keys.mail_root]
    changed = _change(store, record, now, writes, reads)
    _prove(store, keys.status_root, record, now, sleep)
    text = f"{record.job}: revoked; the store refuses its grants, which lived {until}. {CANNOT.capitalize()}."
    text += f" It forbids retries of the job too: `provision revoke {record.job} --undo` allows them again."
    return Event("revoked", text, {"job": record.job, "changed": changed, "until": iso(record.expires)})


def undo(store: Store, record: JobRecord, now: datetime) -> Event:
    """Take the job's statements out of the bucket policy again. Safe to repeat."""
    changed = _change(store, record, now, None, None)
    text = f"{record.job}: no longer revoked" if changed else f"{record.job}: was not revoked"
    return Event("unrevoked", text, {"job": record.job, "changed": changed})


def on_finish(store: Store, report: Report, clock: Callable[[], datetime]) -> Callable[[JobRecord, str, int], None]:
    """Return what a watcher calls for each attempt that is over: it revokes that attempt's grant alone.

    A store that doesn't support it is told of once, and left alone.
    """
    able = True

    def finished(record: JobRecord, task: str, attempt: int) -> None:
        nonlocal able
        now = clock()
        if not able or record.spec.revoke != "on-finish" or record.expires <= now or not attempt:
            return
        keys = JobKeys(store.prefix, record.job)
        status = keys.status(task, attempt)
        try:
            changed = _change(store, record, now, [keys.outputs(task, attempt), status], [])
            if changed:
                _prove(store, status, record, now, time.sleep)
                report(Event("revoked", f"task {task}: its grant is revoked", {"job": record.job, "task": task}))
        except FreepostError as error:
            able = False
            text = f"note: grants are not revoked as tasks end: {error.message}. They expire at {iso(record.expires)}"
            report(Event("notice", text, {"job": record.job, "text": text}))

    return finished


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
    document = dict(policy or {"Version": "2012-10-17"})
    found = document.get("Statement", [])
    kept: list[dict[str, Any]] = []
    mine: dict[str, dict[str, Any]] = {}
    for item in found if isinstance(found, list) else [found]:
        ours = _SID.fullmatch(str(item.get("Sid", "")))
        if ours is None:
            kept.append(item)
        elif ours["job"] == job:
            mine[item["Sid"][-1]] = item
        elif ours["until"] > now.strftime("%Y%m%d%H%M%S"):
            kept.append(item)
    for item in statements or ():
        before = _texts(mine.get(item["Sid"][-1], {}).get("Resource", []))
        mine[item["Sid"][-1]] = {**item, "Resource": _widest([*before, *item["Resource"]])}
    if statements is not None:
        kept += [mine[kind] for kind in sorted(mine)]
    return {**document, "Statement": kept} if kept else None


def _change(store: Store, record: JobRecord, now: datetime, writes: list[str] | None, reads: list[str] | None) -> bool:
    """Merge into the store's policy and see that it stays. False when it was so already."""
    job = hashlib.sha256(JobKeys(store.prefix, record.job).root.encode()).hexdigest()[:16]
    statements = None if writes is None else _statements(store, record, job, writes, reads or [])
    changed = False
    for _ in range(_TRIES):
        text = store.policy()
        policy = json.loads(text) if text else None
        merged = merge(policy, job, statements, now)
        if _same(policy, merged):
            return changed
        changed = True
        store.set_policy(None if merged is None else _fitting(merged))
    raise Refused(
        f"the policy of bucket {store.bucket.name} is not as it was written",
        hint="somebody else keeps changing it, or the store rewrites it; look at it and run the same command again",
    )


def _statements(store: Store, record: JobRecord, job: str, writes: list[str], reads: list[str]) -> list[dict[str, Any]]:
    # One second more, so that the Deny never ends before the grant.
    until = (record.expires + timedelta(seconds=1)).strftime("%Y%m%d%H%M%S")

    def deny(kind: str, action: str, prefixes: list[str]) -> dict[str, Any]:
        return {
            "Sid": f"FreepostRevoked{until}{job}{kind}",
            "Effect": "Deny",
            "Principal": "*",
            "Action": action,
            "Resource": [f"{arn(store.bucket)}/{literal(prefix)}*" for prefix in prefixes],
        }

    made = [deny("W", "s3:PutObject", writes)]
    return [*made, deny("R", "s3:GetObject", reads)] if reads else made


def _fitting(policy: dict[str, Any]) -> str:
    text = json.dumps(policy, separators=(",", ":"))
    if len(text.encode()) > LIMIT:
        ours = sum(bool(_SID.fullmatch(str(item.get("Sid", "")))) for item in policy["Statement"])
        raise BadInput(
            f"the bucket policy would have {len(text.encode())} bytes; S3 allows {LIMIT}",
            hint=f"{ours} of its {len(policy['Statement'])} statements are Freepost's: `provision revoke JOB --undo` "
            "takes out those of jobs that are over, or end the signing key or session",
        )
    return text


def _prove(store: Store, prefix: str, record: JobRecord, now: datetime, sleep: Callable[[float], None]) -> None:
    """Post a form like the VM's until the store refuses it. Raise Refused if it never does."""
    target = sign_prefix(
        store.bucket,
        prefix,
        credentials=store.credentials,
        now=now,
        expires=now + timedelta(minutes=5),
        max_bytes=1,
    )
    waited, pause = 0.0, 0.05
    while True:
        try:
            preflight.post(target, ".revoked", b"")
        except Refused:
            return
        store.delete([f"{prefix}.revoked"])
        if waited >= PROOF_SECONDS:
            break
        sleep(pause)  # no event tells when a policy applies
        waited, pause = waited + pause, pause * 2
    raise Refused(
        f"the store took the Deny but still accepts forms below {prefix}: it doesn't apply bucket policies to POST",
        hint=f"presigned URLs may be stopped, forms live until {iso(record.expires)} or the signing key's end",
    )


def _same(left: dict[str, Any] | None, right: dict[str, Any] | None) -> bool:
    """Compare policies as stores write them back: a list of one may come as its element."""

    def plain(policy: dict[str, Any] | None) -> list[Any]:
        found = (policy or {}).get("Statement", [])
        rows = found if isinstance(found, list) else [found]
        return [
            {name: _texts(value) for name, value in item.items() if name != "Sid"} | {"Sid": item.get("Sid")}
            for item in rows
        ]

    return plain(left) == plain(right)


def _texts(value: Any) -> Any:  # noqa: ANN401 - any element of a policy
    if isinstance(value, dict):
        return ["*"] if value in ({"AWS": "*"}, {"AWS": ["*"]}) else {key: _texts(each) for key, each in value.items()}
    return value if isinstance(value, list) else [value]


def _widest(resources: Sequence[str]) -> list[str]:
    """Each resource once, without those that another one covers."""
    once = dict.fromkeys(resources)
    return [
        item for item in once if not any(item != other and item.startswith(other.removesuffix("*")) for other in once)
    ]
