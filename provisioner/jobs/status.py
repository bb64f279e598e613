"""Reads the status of a job's tasks from one LIST of its status prefix, and writes it as text and as documents.

What the VMs posted is all that is known here. `provisioner.jobs.watch` also asks the provider, and so finds the tasks
that are lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.layout import EVENTS, FINAL_EVENTS, MANIFEST, SUCCEEDED
from provisioner.clock import iso
from provisioner.errors import BadInput, JobFailed
from provisioner.jobs.record import Attempt, JobRecord, keys_of
from provisioner.plan.layout import parse_status
from provisioner.s3.bucket import ObjectInfo, Store

LOST = "lost"
WAITING = "waiting"
NAMED_TASKS = 10  # tasks in one message
_WARNING = 300  # characters that are shown of a VM's own warning


@dataclass(frozen=True)
class TaskStatus:
    """Where the latest attempt of a task stands. `event` is the last it posted, ``waiting`` or ``lost``.

    `attempt` counts from 1, and is 0 for a task that was never announced; `time` is when the event was stored.
    `reason` is the provider's for one that is lost, which is `unstarted` when it was announced and never had a VM.
    """

    task: str
    attempt: int
    event: str
    time: datetime | None
    manifest: bool = False
    reason: str = ""
    unstarted: bool = False

    @property
    def key(self) -> Attempt:
        """The task and its attempt."""
        return self.task, self.attempt

    @property
    def is_final(self) -> bool:
        """Nothing more will come from this attempt."""
        return self.event in FINAL_EVENTS or self.event == LOST

    @property
    def succeeded(self) -> bool:
        """It did what it was to do."""
        return self.event == SUCCEEDED


@dataclass(frozen=True)
class TaskReport(TaskStatus):
    """A status with what is known of the task's end.

    `details` has, as far as they are known, ``exit_code`` (below zero: the signal that ended the job), ``reason``,
    ``warning`` and ``upload`` (``{"files", "bytes"}``). They come from the VM, and are of whatever type it wrote.
    """

    details: Mapping[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        row = {"task": self.task, "attempt": self.attempt, "status": self.event, "time": self.time and iso(self.time)}
        return {**row, **self.details}


def read(store: Store, record: JobRecord) -> list[TaskStatus]:
    """Tell where every task stands, in the order of the tasks."""
    root = keys_of(store, record).status_root
    return latest_status(record.spec.tasks, root, store.list(root))


def read_tasks(store: Store, record: JobRecord, task: str | None) -> list[TaskStatus]:
    """Tell where every task stands, or the one that is named. Raise BadInput for one that isn't there."""
    return select(record, read(store, record), task)


def select(record: JobRecord, found: Sequence[TaskStatus], task: str | None) -> list[TaskStatus]:
    """Return all of these, or those of the task that is named. Raise BadInput for one that isn't there."""
    chosen = [item for item in found if task in (None, item.task)]
    if not chosen:
        raise BadInput(f"{record.job} has no task {task!r}")
    return chosen


def latest_status(tasks: Iterable[str], root: str, entries: Sequence[ObjectInfo]) -> list[TaskStatus]:
    """Read a listing of the status prefix. Only each task's latest attempt counts."""
    found: dict[str, dict[int, dict[str, datetime]]] = {}
    for entry in entries:
        key = parse_status(root, entry.key)
        if key is not None:
            found.setdefault(key.task, {}).setdefault(key.attempt, {})[key.name] = entry.modified
    return [_latest(task, found.get(task, {})) for task in tasks]


def _latest(task: str, attempts: Mapping[int, Mapping[str, datetime]]) -> TaskStatus:
    if not attempts:
        return TaskStatus(task, 0, WAITING, None)
    attempt = max(attempts)
    names = attempts[attempt]
    reached = [event for event in EVENTS if event in names]
    last = reached[-1] if reached else WAITING
    return TaskStatus(task, attempt, last, names.get(last), MANIFEST in names)


def final_event(store: Store, record: JobRecord, item: TaskStatus) -> dict[str, Any]:
    """What the last event of a task says: exit_code, reason, upload, started, warning. Empty if none can be read."""
    if item.event not in FINAL_EVENTS:
        return {}
    keys = keys_of(store, record)
    try:
        found = json.loads(store.get(keys.event(item.task, item.attempt, item.event)))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def details(store: Store, record: JobRecord, item: TaskStatus) -> dict[str, Any]:
    """What is known of a task's end beyond its event: `TaskReport.details`."""
    last = final_event(store, record, item)
    found: dict[str, Any] = {name: last[name] for name in ("exit_code", "reason", "upload") if name in last}
    if isinstance(last.get("warning"), str):
        found["warning"] = "".join(filter(str.isprintable, last["warning"]))[:_WARNING]
    return {**found, "reason": item.reason} if item.reason else found


def describe(store: Store, record: JobRecord, found: Iterable[TaskStatus]) -> list[TaskReport]:
    """Add to each status what the task's last event says."""
    return [TaskReport(**vars(item), details=details(store, record, item)) for item in found]


def explain_end(known: Mapping[str, Any]) -> str:
    """Say, to follow a task's event, why the task failed and what its VM lacked: what its `details` have of it."""
    code = known.get("exit_code") or 0
    warning = f" (warning: {known['warning']})" if known.get("warning") else ""
    if known.get("reason"):
        return f": {known['reason']}{warning}"
    if code < 0:
        return f": the job was ended by signal {-code}{warning}"
    return (f": the job ended with exit code {code}" if code else "") + warning


def table(found: Sequence[TaskReport]) -> str:
    """The reports as lines of text."""
    lines = ["task  attempt  status       since"]
    for item in found:
        upload = item.details.get("upload")
        files = f"  {upload['files']} files, {upload['bytes']} bytes" if upload else ""
        since = iso(item.time) if item.time else "-"
        end = explain_end(item.details)
        lines.append(f"{item.task:>4}  {item.attempt:>7}  {item.event:11}  {since}{files}{end}")
    return "\n".join(lines)


def require_success(job: str, found: Sequence[TaskStatus]) -> None:
    """Raise JobFailed, naming them, when tasks didn't succeed."""
    bad = [item for item in found if not item.succeeded]
    if bad:
        names = ", ".join(f"{item.task} ({item.event})" for item in bad[:NAMED_TASKS]) + " …" * (len(bad) > NAMED_TASKS)
        message = f"{len(bad)} of {len(found)} tasks of {job} did not succeed: {names}"
        raise JobFailed(
            message,
            hint=f"`provision logs {job}` shows why; `provision retry {job}` runs them again",
        )
