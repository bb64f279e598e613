"""What a launch, a retry or a renewal asks for, and the Plan that follows from it.

Pure: the clock, the ids and the bucket are passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from provisioner.errors import BadInput
from provisioner.job.spec import JobSpec
from provisioner.plan import put_outputs
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import UPLOAD_MARGIN, Plan, StagedInput, task_plans
from provisioner.s3.signing import MAX_LIFETIME, Bucket

GROUP_FROM = 51  # tasks from which on VMs are launched in groups, unless the job says otherwise
GROUP_SIZE = 50  # tasks in a group: a job of 1,000 takes 20 requests, and one that finds no room asks for few


@dataclass(frozen=True)
class LaunchRequest:
    """Everything that a plan depends on.

    `attempts` maps the tasks to launch to their attempt; None: all, the first. `groups` says that the provider can
    start VMs that share one user-data, `has_guest` that cloud-init reads it. `credentials_expire` is the end of the
    session that signs, None for a key's.
    """

    spec: JobSpec
    job: str
    bucket: Bucket
    prefix: str
    provider: str
    user_data_limit: int
    now: datetime
    credentials_expire: datetime | None = None
    attempts: Mapping[str, int] | None = None
    inputs: Sequence[StagedInput] = ()
    groups: bool = False
    raw: bool = False
    has_guest: bool = True

    @property
    def deadline(self) -> datetime:
        """When the job is over, one way or the other."""
        return self.now + timedelta(seconds=self.spec.deadline)

    @property
    def expires(self) -> datetime:
        """When the policies end: when the spec says, or `UPLOAD_MARGIN` after the deadline.

        Never later than the session that signs them, since they would be dead anyway.
        """
        lifetime = self.spec.renew or self.spec.expires
        ends = [self.now + timedelta(seconds=lifetime) if lifetime else self.deadline + UPLOAD_MARGIN]
        if self.credentials_expire is not None:
            ends.append(self.credentials_expire)
        return min(*ends, self.now + MAX_LIFETIME)

    @property
    def group_size(self) -> int:
        """How many tasks may share one user-data and its grant."""
        if not self.groups or self.spec.method == "put" or self.spec.renew:
            return 1
        usual = "group" if len(self.spec.tasks) >= GROUP_FROM else "task"
        return GROUP_SIZE if (self.spec.isolation or usual) == "group" else 1


def make_plan(request: LaunchRequest) -> Plan:
    """Make the plan of a launch. Raise BadInput for what can't be launched so."""
    _check(request)
    spec = request.spec
    attempts = request.attempts if request.attempts is not None else dict.fromkeys(spec.tasks, 1)
    return Plan(
        job=request.job,
        spec=spec,
        bucket=request.bucket,
        keys=JobKeys(request.prefix, request.job),
        provider=request.provider,
        user_data_limit=request.user_data_limit,
        created=request.now,
        deadline=request.deadline,
        expires=request.expires,
        tasks=task_plans(request.job, attempts, request.group_size),
        group_size=request.group_size,
        inputs=tuple(request.inputs),
        agent="bucket" if spec.run.agent == "bucket" else "inline",
        raw=request.raw,
        has_guest=request.has_guest,
    )


def _check(request: LaunchRequest) -> None:
    spec = request.spec
    if spec.method == "put":
        put_outputs.check_presignable(spec)
    if spec.isolation == "group" and not request.groups:
        raise BadInput(
            f"the provider {request.provider} can't do isolation: group here: each of its VMs has its own user-data",
            hint="use isolation: task, and on EC2 leave out vm.fleet",
        )
    if spec.renew and (spec.isolation == "group" or spec.method == "put"):
        what = "PUTs" if spec.method == "put" else "the grants of groups"
        raise BadInput(f"{what} are not renewed", hint="leave out renew, or shorten run.timeout to less than 7d")
