"""How a job stands, from one LIST of its status prefix; and the loop that waits for its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from provisioner.errors import BadInput, FreepostError, JobFailed
from provisioner.keys import EVENTS, FINAL_EVENTS, JobKeys, parse_status
from provisioner.output import Event, Report
from provisioner.plan import iso
from provisioner.providers.base import Phase, Provider
from provisioner.record import JobRecord
from provisioner.store import Entry, Store

LOST_AFTER = timedelta(seconds=20)  # a VM that is gone may have posted its last event just before
POLL_SECONDS = (0.5, 10.0)  # between two looks: at first, and at most
NAMED = 10  # tasks in one message
LOST = "lost"
WAITING = "waiting"
LAUNCHED = "launched"


@dataclass(frozen=True)
class TaskStatus:
    """Where the latest attempt of a task stands. `event` is the last it posted, ``waiting`` or ``lost``."""

    task: str
    attempt: int
    event: str
    time: datetime | None
    manifest: bool = False

    @property
    def over(self) -> bool:
        """Nothing more will come from this attempt."""
        return self.event in FINAL_EVENTS or self.event == LOST

    @property
    def succeeded(self) -> bool:
        """It did what it was to do."""
        return self.event == "succeeded"


def status(store: Store, record: JobRecord) -> list[TaskStatus]:
    """Tell where every task stands, in the order of the tasks."""
    keys = JobKeys(store.prefix, record.job)
    return standing(record.spec.tasks, keys.status_root, store.list(keys.status_root))


def standing(tasks: Iterable[str], root: str, entries: Sequence[Entry]) -> list[TaskStatus]:
    """Read a listing of the status prefix. Only each task's latest attempt counts."""
    found: dict[str, dict[int, dict[str, datetime]]] = {}
    for entry in entries:
        key = parse_status(root, entry.key)
        if key is not None:
            found.setdefault(key.task, {}).setdefault(key.attempt, {})[key.name] = entry.modified
    return [_standing(task, found.get(task, {})) for task in tasks]


def _standing(task: str, attempts: Mapping[int, Mapping[str, datetime]]) -> TaskStatus:
    if not attempts:
        return TaskStatus(task, 0, WAITING, None)
    attempt = max(attempts)
    names = attempts[attempt]
    reached = [event for event in EVENTS if event in names]
    last = reached[-1] if reached else WAITING
    return TaskStatus(task, attempt, last, names.get(last), "manifest.json" in names)


def final_event(store: Store, record: JobRecord, item: TaskStatus) -> dict[str, Any]:
    """What the last event of a task says: exit_code, signal, reason, upload. Empty when there is none to read."""
    if item.event not in FINAL_EVENTS:
        return {}
    keys = JobKeys(store.prefix, record.job)
    try:
        found = json.loads(store.get(keys.event(item.task, item.attempt, item.event)))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Watcher:
    """Follows a job. `retry` launches the next attempt of tasks (`Launcher.retry`).

    `finished` is told the task and attempt of each that is over (`provisioner.revoke.on_finish`). `renew` renews the
    grants of those that run, and says in how many seconds it wants to be called again (`provisioner.renew`).
    """

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    report: Report
    retry: Callable[[JobRecord, Sequence[str]], JobRecord]
    finished: Callable[[JobRecord, str, int], None] | None = None
    renew: Callable[[JobRecord, Sequence[TaskStatus]], float | None] | None = None

    def look(self, record: JobRecord, gone: dict[str, datetime]) -> list[TaskStatus]:
        """Tell where every task stands, counting as lost what has no VM any more and will post nothing.

        `gone` remembers between looks since when each VM has been seen gone.
        """
        found = status(self.store, record)
        open_tasks = {(item.task, item.attempt) for item in found if not item.over}
        instances = [item for item in record.instances if (item.task, item.attempt) in open_tasks]
        states = self.provider.state(instances) if instances else {}
        # A VM that nobody here started is known by its posts alone, and after the expiry none can come.
        lost = open_tasks if self.clock() >= record.expires + LOST_AFTER else set()
        for item in instances:
            if states[item.id].phase is not Phase.GONE:
                gone.pop(item.id, None)
            elif self.clock() - gone.setdefault(item.id, self.clock()) >= LOST_AFTER:
                lost.add((item.task, item.attempt))
        return [
            TaskStatus(item.task, item.attempt, LOST, item.time, item.manifest)
            if (item.task, item.attempt) in lost
            else item
            for item in found
        ]

    def wait(self, record: JobRecord, *, launched: bool = False) -> list[TaskStatus]:
        """Report each change until every task is over, launching retries where the spec has some left.

        `launched`: whoever launched these attempts has told so.
        """
        told = _attempts(record) if launched else set()
        before: dict[str, TaskStatus] = {}
        gone: dict[str, datetime] = {}
        pause, longest = POLL_SECONDS
        while True:
            found = self.look(record, gone)
            changed = [item for item in found if before.get(item.task) != item]
            for item in changed:
                if item.event != LAUNCHED or (item.task, item.attempt) not in told:
                    self.report(self._event(record, item))
                if item.over and self.finished is not None:
                    self.finished(record, item.task, item.attempt)
            before = {item.task: item for item in found}
            again = [
                item.task for item in found if item.over and not item.succeeded and item.attempt <= record.spec.retries
            ]
            if again:
                older = _attempts(record)
                record = self.retry(record, again)
                told |= _attempts(record) - older
            soon = self.renew(record, found) if self.renew is not None else None
            if not again and all(item.over for item in found):
                return found
            pause = POLL_SECONDS[0] if changed else min(pause * 1.5, longest)
            self.sleep(pause if soon is None else min(pause, soon))

    def _event(self, record: JobRecord, item: TaskStatus) -> Event:
        data: dict[str, Any] = {"job": record.job, "task": item.task, "attempt": item.attempt, "status": item.event}
        text = f"task {item.task} {item.event}"
        if item.over:
            last = final_event(self.store, record, item)
            data.update({name: last[name] for name in ("exit_code", "reason", "upload") if name in last})
            text += _because(last)
        return Event("task", text, data)


def _attempts(record: JobRecord) -> set[tuple[str, int]]:
    return {(item.task, item.attempt) for item in record.instances}


def _because(last: Mapping[str, Any]) -> str:
    """Why a task ended badly. An exit code below zero is the signal that ended the job, as subprocess has it."""
    code = last.get("exit_code") or 0
    if last.get("reason"):
        return f": {last['reason']}"
    if code < 0:
        return f": the job was ended by signal {-code}"
    return f": the job ended with exit code {code}" if code else ""


def require_success(record: JobRecord, found: Sequence[TaskStatus]) -> None:
    """Raise JobFailed, naming them, when tasks didn't succeed."""
    bad = [item for item in found if not item.succeeded]
    if bad:
        names = ", ".join(f"{item.task} ({item.event})" for item in bad[:NAMED]) + " …" * (len(bad) > NAMED)
        message = f"{len(bad)} of {len(found)} tasks of {record.job} did not succeed: {names}"
        raise JobFailed(
            message,
            hint=f"`provision logs {record.job}` shows why; `provision retry {record.job}` runs them again",
        )


def describe(watcher: Watcher, record: JobRecord) -> list[dict[str, Any]]:
    """Where every task stands, with what its last event says, as documents."""
    rows = []
    for item in watcher.look(record, {}):
        last = final_event(watcher.store, record, item)
        row = {"task": item.task, "attempt": item.attempt, "status": item.event, "time": item.time and iso(item.time)}
        row.update({name: last[name] for name in ("exit_code", "reason", "upload") if name in last})
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Those documents as lines of text."""
    lines = ["task  attempt  status       since"]
    for row in rows:
        upload = row.get("upload")
        files = f"  {upload['files']} files, {upload['bytes']} bytes" if upload else ""
        lines.append(
            f"{row['task']:>4}  {row['attempt']:>7}  {row['status']:11}  {row['time'] or '-'}{files}{_because(row)}"
        )
    return "\n".join(lines)


def to_retry(watcher: Watcher, record: JobRecord, task: str | None) -> list[str]:
    """The tasks that a retry would launch again. Raise BadInput when there is none."""
    found = watcher.look(record, {})
    if task is not None:
        found = [item for item in found if item.task == task]
        if not found:
            message = f"{record.job} has no task {task!r}"
            raise BadInput(message)
    again = [item.task for item in found if item.over and not item.succeeded]
    if not again:
        running = sum(not item.over for item in found)
        message = f"nothing to retry: {running} tasks are not over, the others succeeded"
        raise BadInput(message, hint="`provision terminate` ends the VMs of those that hang")
    return again


def logs(store: Store, provider: Provider, record: JobRecord, task: str | None) -> Iterator[bytes]:
    """What the tasks printed, one task after the other; the VM's console for one that uploaded nothing."""
    found = [item for item in status(store, record) if task in (None, item.task)]
    if not found:
        message = f"{record.job} has no task {task!r}"
        raise BadInput(message)
    for item in found:
        if len(found) > 1:
            yield f"== task {item.task}, attempt {item.attempt}: {item.event}\n".encode()
        uploaded = False
        for piece in log(store, record, item.task, item.attempt):
            uploaded = True
            yield piece
        if not uploaded:
            for instance in record.instances:
                if (instance.task, instance.attempt) == (item.task, item.attempt):
                    yield provider.console(instance)


def log(store: Store, record: JobRecord, task: str, attempt: int) -> Iterator[bytes]:
    """The log segments of an attempt, in order."""
    prefix = JobKeys(store.prefix, record.job).status(task, attempt) + "log/"
    for entry in store.list(prefix):
        yield store.get(entry.key)


def terminate(provider: Provider, record: JobRecord) -> int:
    """End every VM of a job, those that a cut-off launch didn't live to record too. Return how many are known."""
    of_job = getattr(provider, "of_job", None)
    try:
        known = dict.fromkeys(item.id for item in record.instances)
        more = [item for item in (of_job(record.job) if of_job else ()) if item.id not in known]
        provider.terminate([*record.instances, *more])
    except FreepostError as error:
        error.hint = error.hint or "run the same command again: it goes on with those that are left"
        raise
    return len(record.instances) + len(more)
