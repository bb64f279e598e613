"""The Plan: everything a launch will do, as data. `--dry-run` prints it, `launch` carries it out.

Pure: the clock, the ids and the bucket are passed in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from provisioner.keys import JobKeys
from provisioner.policy import MAX_STATUS_BYTES, Bucket, policy_document
from provisioner.spec import JobSpec

# A policy outlives the job's deadline by this, so that the last upload isn't cut off by its own signature.
UPLOAD_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True)
class TaskPlan:
    """One task of one attempt. `token` names the launch to the provider: the same task and attempt, the same token."""

    task: str
    attempt: int
    token: str


@dataclass(frozen=True)
class StagedInput:
    """A file that the VM pulls from the bucket. `sha256` (hex) pins it; None for an object that was there already."""

    path: str
    key: str
    mode: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Plan:
    """A launch. Times are UTC; prefixes come from `keys`."""

    job: str
    spec: JobSpec
    bucket: Bucket
    keys: JobKeys
    provider: str
    user_data_limit: int
    created: datetime
    deadline: datetime
    expires: datetime
    tasks: tuple[TaskPlan, ...]
    inputs: tuple[StagedInput, ...] = ()

    def policies(self, task: TaskPlan) -> dict[str, dict[str, Any]]:
        """The two policy documents of a task's grant, in clear and before the signature's own conditions."""
        return {
            "outputs": policy_document(
                self.bucket.name,
                self.keys.outputs(task.task, task.attempt),
                expires=self.expires,
                max_bytes=self.spec.max_bytes,
            ),
            "status": policy_document(
                self.bucket.name,
                self.keys.status(task.task, task.attempt),
                expires=self.expires,
                max_bytes=MAX_STATUS_BYTES,
            ),
        }

    def describe(self) -> dict[str, Any]:
        """The plan as a JSON document, for people and for `--json`."""
        return {
            "job": self.job,
            "provider": self.provider,
            "bucket": self.bucket.name,
            "region": self.bucket.region,
            "url": self.bucket.url,
            "created": iso(self.created),
            "deadline": iso(self.deadline),
            "expires": iso(self.expires),
            "inputs": [{"path": item.path, "key": item.key, "size": item.size, "sha256": item.sha256} for item in self.inputs],
            "tasks": [
                {"task": task.task, "attempt": task.attempt, "token": task.token, "policies": self.policies(task)}
                for task in self.tasks
            ],
        }


def new_job_id(name: str, now: datetime, entropy: str) -> str:
    """Return a job id that sorts by time: NAME-YYYYMMDD-HHMMSS-ENTROPY."""
    return f"{name}-{now.astimezone(timezone.utc):%Y%m%d-%H%M%S}-{entropy}"


def launch_token(job: str, task: str, attempt: int) -> str:
    """Return the idempotency token of a launch: 32 characters, the same for the same task and attempt."""
    return hashlib.sha256(f"{job}/{task}/{attempt}".encode()).hexdigest()[:32]


def make_plan(  # noqa: PLR0913 - everything a plan depends on is named here
    spec: JobSpec,
    *,
    job: str,
    bucket: Bucket,
    prefix: str,
    provider: str,
    user_data_limit: int,
    now: datetime,
    credentials_expire: datetime | None = None,
    attempts: dict[str, int] | None = None,
    inputs: Sequence[StagedInput] = (),
) -> Plan:
    """Make the plan of a launch. `attempts` maps the tasks to launch to their attempt; all tasks, first attempt, if None.

    The policies expire at what the spec asks for or `UPLOAD_MARGIN` after the deadline, and never later than the
    session that signs them, since they would be dead anyway.
    """
    deadline = now + timedelta(seconds=spec.deadline)
    expires = now + timedelta(seconds=spec.expires) if spec.expires else deadline + UPLOAD_MARGIN
    if credentials_expire is not None:
        expires = min(expires, credentials_expire)
    chosen = attempts if attempts is not None else dict.fromkeys(spec.tasks, 1)
    return Plan(
        job=job,
        spec=spec,
        bucket=bucket,
        keys=JobKeys(prefix, job),
        provider=provider,
        user_data_limit=user_data_limit,
        created=now,
        deadline=deadline,
        expires=expires,
        tasks=tuple(TaskPlan(task, attempt, launch_token(job, task, attempt)) for task, attempt in chosen.items()),
        inputs=tuple(inputs),
    )


def iso(moment: datetime) -> str:
    """A time as every document of ours writes it: ISO 8601, UTC, whole seconds."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
