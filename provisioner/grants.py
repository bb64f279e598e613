"""From a Plan and credentials to the grant of one task: two signed policies and the presigned GETs of its inputs."""

from __future__ import annotations

from datetime import datetime

from agent.grant import Grant
from provisioner.plan import Plan, TaskPlan
from provisioner.policy import Bucket, Credentials, presign_url, sign_post


def sign_grant(
    plan: Plan, task: TaskPlan, *, credentials: Credentials, now: datetime, bucket: Bucket | None = None
) -> Grant:
    """Sign everything that `task`, or each VM of a group, may do.

    `bucket` is the bucket as the VM reaches it, the plan's own if None.
    """
    seen = bucket or plan.bucket
    documents = plan.policies(task)
    outputs = sign_post(
        seen, plan.keys.outputs(task.place, task.attempt), documents["outputs"], credentials=credentials, now=now
    )
    status = sign_post(
        seen, plan.keys.status(task.place, task.attempt), documents["status"], credentials=credentials, now=now
    )
    inputs = []
    for item in plan.pulled:
        url = presign_url("GET", seen, item.key, credentials=credentials, now=now, lifetime=plan.expires - now)
        entry = {"path": item.path, "url": url, "size": item.size, "mode": item.mode}
        inputs.append({**entry, "sha256": item.sha256} if item.sha256 else entry)
    return Grant(plan.job, task.task, task.attempt, int(plan.expires.timestamp()), outputs, status, inputs)
