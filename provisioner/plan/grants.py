"""From a Plan and credentials to the grant of one task: what it may upload and presigned GETs of its inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from agent.grant import Grant, Target, dump
from provisioner.clock import iso, to_seconds
from provisioner.plan import put_outputs
from provisioner.plan.plan import Plan, StagedInput, TaskPlan
from provisioner.s3 import put_slots
from provisioner.s3.signing import MAX_STATUS_BYTES, Bucket, Credentials, presign_url, sign_post


def sign_grant(  # noqa: PLR0913 - what a grant is made of
    plan: Plan,
    task: TaskPlan,
    *,
    credentials: Credentials,
    now: datetime,
    bucket: Bucket | None = None,
    uploads: Mapping[str, str] | None = None,
    letter: int = 1,
) -> Grant:
    """Sign everything that `task`, or each VM of a group, may do.

    `bucket` is the bucket as the VM reaches it, the plan's own if None. `uploads` has the UploadId of each output that
    may take several PUTs, by key; without it those PUTs are signed for an upload that isn't there. `letter` is the
    number of the renewed grant that will follow this one, in a job that renews them.
    """
    seen = bucket or plan.bucket
    reach = plan.reach(credentials.expires, now)

    def download(item: StagedInput) -> dict[str, Any]:
        return _download(item, seen, credentials, now, reach)

    inputs = [{**download(item), "path": item.path, "mode": item.mode} for item in plan.pulled]
    if plan.by_put:
        signing = put_slots.Signing(seen, credentials, now, plan.expires - now)
        outputs, status = _slots(plan, task, signing, uploads or {})
    else:
        outputs, status = _policies(plan, task, seen, credentials, now)
    mailbox = None
    if plan.spec.renew:
        key = plan.keys.letter(task.task, task.attempt, letter)
        url = presign_url("GET", seen, key, credentials=credentials, now=now, lifetime=reach)
        mailbox = {"url": url, "until": iso(plan.deadline)}
    names = plan.job, task.task, task.attempt
    agent = download(plan.archive) if plan.archive else None
    return Grant(*names, to_seconds(plan.expires), outputs, status, inputs, mailbox, agent)


def _download(
    item: StagedInput, bucket: Bucket, credentials: Credentials, now: datetime, lifetime: timedelta
) -> dict[str, Any]:
    """What a VM needs to fetch an object, and to know that it is the right one."""
    url = presign_url("GET", bucket, item.key, credentials=credentials, now=now, lifetime=lifetime)
    return {"url": url, "size": item.size, **({"sha256": item.sha256} if item.sha256 else {})}


def _policies(
    plan: Plan, task: TaskPlan, seen: Bucket, credentials: Credentials, now: datetime
) -> tuple[Target, Target]:
    documents = plan.policies(task)
    outputs = sign_post(
        seen, plan.keys.outputs(task.place, task.attempt), documents["outputs"], credentials=credentials, now=now
    )
    status = sign_post(
        seen, plan.keys.status(task.place, task.attempt), documents["status"], credentials=credentials, now=now
    )
    return outputs, status


def _slots(plan: Plan, task: TaskPlan, signing: put_slots.Signing, uploads: Mapping[str, str]) -> tuple[Target, Target]:
    prefix = plan.keys.outputs(task.task, task.attempt)
    begun = {key: uploads.get(key, put_outputs.UNKNOWN) for key in large_keys(plan, task)}
    large = {name: (size, begun[prefix + name]) for name, size in put_outputs.large(plan.spec).items()}
    outputs = signing.target(prefix, put_outputs.names(plan.spec), most=plan.spec.max_bytes, large=large)
    status = signing.target(
        plan.keys.status(task.task, task.attempt), put_outputs.STATUS_NAMES, most=2 * MAX_STATUS_BYTES
    )
    return outputs, status._replace(fields={**status.fields, "abort": signing.aborts(begun)})


def large_keys(plan: Plan, task: TaskPlan) -> list[str]:
    """The keys of the outputs that may take several PUTs, each of which wants an upload begun."""
    prefix = plan.keys.outputs(task.task, task.attempt)
    return [prefix + name for name in put_outputs.large(plan.spec)] if plan.by_put else []


def stub(  # noqa: PLR0913 - as for a grant
    plan: Plan, task: TaskPlan, grant: Grant, *, credentials: Credentials, now: datetime, bucket: Bucket
) -> bytes:
    """What the user-data holds instead of a grant that lies apart (`agent/boot.py`)."""
    data = dump(grant).encode()
    key = plan.keys.grant(task.task, task.attempt)
    whole = StagedInput("the grant", key, "0400", len(data), hashlib.sha256(data).hexdigest())
    source = _download(whole, bucket, credentials, now, plan.deadline - now)
    return json.dumps(source, separators=(",", ":"), sort_keys=True).encode()
