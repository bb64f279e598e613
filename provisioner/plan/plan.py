"""The Plan: everything a launch will do, as data. `--dry-run` prints it, `launch` carries it out.

Pure but for the packed agent, which is read from a cache: the clock, the ids and the bucket are passed in.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from agent import __version__
from agent.grant import members
from provisioner.clock import iso
from provisioner.errors import BadInput
from provisioner.job.spec import FileSpec, JobSpec
from provisioner.packing import agent_archive
from provisioner.plan import put_outputs
from provisioner.plan.layout import JobKeys, agent_root
from provisioner.s3.signing import MAX_LIFETIME, MAX_STATUS_BYTES, Bucket, policy_document

# A policy outlives the job's deadline by this, so that the last upload isn't cut off by its own signature.
UPLOAD_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True)
class TaskPlan:
    """What one user-data is for: a task of one attempt, or a group of them that shares it.

    `task` is written as in the grant: ``7``, or ``0-49`` for a group. `token` names the launch to the provider: the
    same task and attempt, the same token.
    """

    task: str
    attempt: int
    token: str

    @property
    def members(self) -> tuple[str, ...]:
        """The tasks, in the order of their VMs' launch indexes."""
        return tuple(members(self.task))

    @property
    def grouped(self) -> bool:
        """Whether the VMs have to find out which of the tasks is theirs."""
        return not self.task.isdecimal()

    @property
    def key_segment(self) -> str:
        """The task in a key: its own name or, in a group's grant, what each VM replaces by its own."""
        return "{task}" if self.grouped else self.task


@dataclass(frozen=True)
class StagedInput:
    """A file that the VM downloads from the bucket. `sha256` (hex) pins it; None for one that was there already."""

    path: str
    key: str
    mode: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Plan:
    """A launch. Times are UTC; prefixes come from `keys`.

    `agent` says how what isn't the agent's core reaches the VM. ``inline``: all in the user-data. ``bucket``: from
    there, but for what the VM could not do its job without; ``bucket-minimal``: that, too. Where the bucket can't be
    used, ``inline-reduced``: what the job's keys and `agent push` need; ``inline-minimal``: the former alone.
    `offloaded` are the job's files that had no room in the user-data. `remote_grant` says that the grants lie in the
    bucket, and the user-data only tells where; `raw`, that it goes to the VM as it is and not gzipped; `has_guest`,
    that cloud-init reads it, and not a provider that runs the agent without a guest, as the operator.
    """

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
    group_size: int = 1
    inputs: tuple[StagedInput, ...] = ()
    offloaded: tuple[FileSpec, ...] = ()
    agent: str = "inline"
    remote_grant: bool = False
    raw: bool = False
    has_guest: bool = True

    @property
    def needed_until(self) -> datetime:
        """Until when what is signed now has to work."""
        return min(self.deadline, self.expires) if self.spec.renew else self.deadline

    @property
    def grants_end(self) -> datetime:
        """When the last grant that the VMs may ever have will have ended."""
        return self.deadline + UPLOAD_MARGIN if self.spec.renew else self.expires

    def download_lifetime(self, session_ends: datetime | None, now: datetime) -> timedelta:
        """How long a presigned GET lives: as long as the policies or, where these are renewed, as long as can be."""
        return min(self.grants_end, now + MAX_LIFETIME, session_ends or self.grants_end) - now

    def postponed(self, by: timedelta, signing_ends: datetime | None) -> Plan:
        """Return the plan with every time moved by `by`.

        It expires no later than the credentials, at `signing_ends`.
        """
        expires = self.expires + by if signing_ends is None else min(self.expires + by, signing_ends)
        return dataclasses.replace(self, created=self.created + by, deadline=self.deadline + by, expires=expires)

    @property
    def by_put(self) -> bool:
        """Whether the VMs upload by presigned PUTs."""
        return self.spec.method == "put"

    @property
    def inline(self) -> tuple[FileSpec, ...]:
        """The job's files that travel in the user-data."""
        return tuple(item for item in self.spec.run.files if item not in self.offloaded)

    @property
    def downloads(self) -> tuple[StagedInput, ...]:
        """Everything the VM downloads: the inputs, and the job's files that had no room in the user-data."""
        return (*self.inputs, *(self.offloaded_entry(item) for item in self.offloaded))

    def offloaded_entry(self, file: FileSpec) -> StagedInput:
        """Where such a file lies: by its hash, so that every attempt finds the same bytes."""
        digest = hashlib.sha256(file.content).hexdigest()
        return StagedInput(file.path, self.keys.offloaded(digest), file.mode, len(file.content), digest)

    @property
    def archive(self) -> StagedInput | None:
        """What the VM fetches of the agent: one object of the store, whatever job it is for."""
        if self.agent not in ("bucket", "bucket-minimal"):
            return None
        data = agent_archive.rest()
        digest = hashlib.sha256(data).hexdigest()
        key = f"{agent_root(self.keys.prefix)}{__version__}-{digest}.bz2"
        return StagedInput("the agent", key, "0400", len(data), digest)

    def task(self, name: str | None) -> TaskPlan:
        """One task by name, the first if None. Raise BadInput for one that isn't there."""
        for task in self.tasks:
            if name is None or name == task.task or name in task.members:
                return task
        first, last = self.tasks[0].members[0], self.tasks[-1].members[-1]
        message = f"the job has no task {name!r}; its tasks are {first} to {last}"
        raise BadInput(message)

    def policies(self, task: TaskPlan) -> dict[str, dict[str, Any]]:
        """The two policy documents of a task's grant, in clear and before the signature's own conditions.

        A task's own is for its very prefix. A group's is for what the prefixes of its tasks have in common, since a
        policy can name one string that keys start with, and a key has the task before the attempt: the VMs of tasks
        150 to 199 may write below ``out/1…``. They must trust each other and whatever else begins with a 1.
        """
        outputs = shared_prefix(self.keys.outputs(name, task.attempt) for name in task.members)
        status = shared_prefix(self.keys.status(name, task.attempt) for name in task.members)
        bucket, expires = self.bucket.name, self.expires
        return {
            "outputs": policy_document(bucket, outputs, expires=expires, max_bytes=self.spec.max_bytes),
            "status": policy_document(bucket, status, expires=expires, max_bytes=MAX_STATUS_BYTES),
        }

    def permissions(self, task: TaskPlan) -> dict[str, dict[str, Any]]:
        """What the VM of a task may write: ``policies``, or ``slots`` for PUTs (each a list of keys)."""
        if not self.by_put:
            return {"policies": self.policies(task)}
        outputs, status = (each(task.task, task.attempt) for each in (self.keys.outputs, self.keys.status))
        found = {
            "outputs": [outputs + name for name in put_outputs.output_names(self.spec)],
            "status": [status + name for name in put_outputs.STATUS_NAMES],
        }
        return {"slots": found}

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
            **({"renewed_until": iso(self.deadline)} if self.spec.renew else {}),
            "agent": {
                "from": "bucket" if self.archive else "user-data",
                "parts": self.agent,
                **({"key": self.archive.key, "size": self.archive.size} if self.archive else {}),
            },
            "inputs": [
                {"path": item.path, "key": item.key, "size": item.size, "sha256": item.sha256}
                for item in self.downloads
            ],
            "tasks": [
                {"task": task.task, "attempt": task.attempt, "token": task.token, **self.permissions(task)}
                for task in self.tasks
            ],
        }


def shared_prefix(prefixes: Iterable[str]) -> str:
    """The longest string that all of them start with."""
    known = list(prefixes)
    first, last = min(known), max(known)
    same = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:same]


def group(tasks: Iterable[str], size: int) -> list[str]:
    """Write tasks as groups of at most `size`, as the grant does: ``0-49``, ``50-99`` and so on.

    In the order of their numbers, so that a group's tasks share as many leading digits as they can.
    """
    numbers = sorted(map(int, tasks))
    return [ranges(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as the grant does: ``3,7-9``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{low}-{high}" if low != high else str(low) for low, high in found)


def new_job_id(name: str, now: datetime, entropy: str) -> str:
    """Return a job id that sorts by time: NAME-YYYYMMDD-HHMMSS-ENTROPY."""
    return f"{name}-{now.astimezone(timezone.utc):%Y%m%d-%H%M%S}-{entropy}"


def launch_token(job: str, task: str, attempt: int) -> str:
    """Return the idempotency token of a launch: 32 characters, the same for the same task and attempt."""
    return hashlib.sha256(f"{job}/{task}/{attempt}".encode()).hexdigest()[:32]


def task_plans(job: str, attempts: Mapping[str, int], size: int) -> tuple[TaskPlan, ...]:
    """Plan these tasks, each at its attempt, in groups of at most `size`."""
    return tuple(
        TaskPlan(name, attempt, launch_token(job, name, attempt))
        for attempt in sorted(set(attempts.values()))
        for name in group([task for task, each in attempts.items() if each == attempt], size)
    )
