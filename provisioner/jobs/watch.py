"""How a job stands, from one LIST of its status prefix; and the loop that waits for its end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from provisioner.clock import iso
from provisioner.errors import BadInput, FreepostError, JobFailed, NoCapacity
from provisioner.jobs import index, unrecorded
from provisioner.jobs.record import JobRecord
from provisioner.output import Event, Report
from provisioner.plan.layout import EVENTS, FINAL_EVENTS, JobKeys, parse_status
from provisioner.providers.base import Phase, Provider
from provisioner.s3.bucket import ObjectInfo, Store

LOST_AFTER = timedelta(seconds=20)  # a VM that is gone may have posted its last event just before
LISTED_AFTER = timedelta(minutes=5)  # a provider knows every VM that it has started
POLL_SECONDS = (0.5, 10.0)  # between two looks: at first, and at most
AGAIN = (
    timedelta(seconds=30),
    timedelta(minutes=10),
)  # until a retry that found no room is tried again: at first, at most
_WARNING = 300  # characters of what a VM says it had to do without
NAMED = 10  # tasks in one message
LOST = "lost"
WAITING = "waiting"
LAUNCHED = "launched"


@dataclass(frozen=True)
class TaskStatus:
    """Where the latest attempt of a task stands. `event` is the last it posted, ``waiting`` or ``lost``.

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


def standing(tasks: Iterable[str], root: str, entries: Sequence[ObjectInfo]) -> list[TaskStatus]:
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
    """Follows a job. `retry` launches the next attempt of tasks (`Launcher.retry`), where there is one.

    `finished` is told the task and attempt of each that is over (`provisioner.jobs.revoke.on_finish`). `renew` renews
    the grants of those that run, and says in how many seconds it wants to be called again (`provisioner.jobs.renew`).
    """

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    report: Report
    retry: Callable[[JobRecord, Sequence[str]], JobRecord] | None = None
    finished: Callable[[JobRecord, str, int], None] | None = None
    renew: Callable[[JobRecord, Sequence[TaskStatus]], float | None] | None = None

    def look(self, record: JobRecord, gone: dict[str, datetime], patience: timedelta = LOST_AFTER) -> list[TaskStatus]:
        """Tell where every task stands, counting as lost what has no VM any more and will post nothing.

        `gone` remembers between looks since when each VM has been seen gone; after `patience` it is lost, at the second
        look at the earliest.
        """
        found, now = status(self.store, record), self.clock()
        open_tasks = {(item.task, item.attempt): item for item in found if not item.over}
        more = unrecorded.look_up(self.store, self.provider, record, open_tasks, now)
        everything = dict.fromkeys([*more.record.instances, *more.instances])
        instances = [item for item in everything if (item.task, item.attempt) in open_tasks]
        states = self.provider.state(instances) if instances else {}
        # A VM that nobody here started is known by its posts alone, and after the expiry none can come.
        have = _attempts(more.record)
        lost = {
            each: "its grant has expired"
            for each, item in open_tasks.items()
            if now >= _expiry(more.record, item, recorded=each in have) + LOST_AFTER
        }
        for item in instances:
            state, last = states[item.id], open_tasks[item.task, item.attempt].time
            if state.phase is not Phase.GONE or not (state.known or last is None or now - last >= LISTED_AFTER):
                gone.pop(item.id, None)
            elif item.id not in gone:
                gone[item.id] = now
            elif now - gone[item.id] >= patience:
                lost[item.task, item.attempt] = state.reason
        without = {each for each in more.without_vm if open_tasks[each].event in (LAUNCHED, WAITING)}
        for each in without:
            since = gone.setdefault("/".join(map(str, each)), min(now, open_tasks[each].time or now))
            if now - since >= LOST_AFTER:
                lost[each] = "it was announced, and no VM was started for it"
        return [
            dataclasses.replace(item, event=LOST, reason=lost[each], unstarted=each in without)
            if (each := (item.task, item.attempt)) in lost
            else item
            for item in found
        ]

    def once(self, record: JobRecord, patience: timedelta) -> list[TaskStatus]:
        """Look, and where a VM is gone look on for `patience`: it may have posted its last event just before."""
        gone: dict[str, datetime] = {}
        while True:
            found = self.look(record, gone, patience)
            open_tasks = {(item.task, item.attempt) for item in found if not item.over}
            doubtful = {item.id for item in record.instances if (item.task, item.attempt) in open_tasks}
            doubtful |= {f"{task}/{attempt}" for task, attempt in open_tasks} if patience else set()
            if not doubtful & set(gone):
                return found
            self.sleep(min(POLL_SECONDS[1], patience.total_seconds() / 4))

    def wait(self, record: JobRecord, *, launched: bool = False) -> list[TaskStatus]:
        """Report each change until every task is over, launching retries where the spec has some left.

        `launched`: whoever launched these attempts has told so.
        """
        told = _attempts(record) if launched else set()
        before: dict[str, TaskStatus] = {}
        gone: dict[str, datetime] = {}
        pause, longest = POLL_SECONDS
        due, delay = self.clock(), AGAIN[0]
        while True:
            found = self.look(record, gone)
            changed = [item for item in found if before.get(item.task) != item]
            for item in changed:
                if item.event != LAUNCHED or (item.task, item.attempt) not in told:
                    self.report(self._event(record, item))
                # What never had a VM is launched under the same number: its prefixes are still wanted.
                if item.over and not item.unstarted and self.finished is not None:
                    self.finished(record, item.task, item.attempt)
            before = {item.task: item for item in found}
            again = [
                item.task
                for item in found
                if self.retry is not None
                and item.over
                and not item.succeeded
                and item.attempt - item.unstarted <= record.spec.retries
            ]
            if again and self.retry is not None and self.clock() >= due:
                older = _attempts(record)
                try:
                    record = self.retry(record, again)
                    delay = AGAIN[0]
                except FreepostError as error:
                    if not isinstance(error.__cause__ or error, NoCapacity):
                        raise
                    record = index.read(self.store, record.job)  # some may have been started
                    told |= {(item.task, item.attempt) for item in status(self.store, record)}
                    self.report(_delayed(record, error, delay))
                    due, delay = self.clock() + delay, min(delay * 2, AGAIN[1])
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
            last = _said(self.store, record, item)
            data.update(last)
            text += _because(last)
        return Event("task", text, data)


def _said(store: Store, record: JobRecord, item: TaskStatus) -> dict[str, Any]:
    """What is known of a task's end beyond its event."""
    last = final_event(store, record, item)
    found: dict[str, Any] = {name: last[name] for name in ("exit_code", "reason", "upload") if name in last}
    if isinstance(last.get("warning"), str):
        found["warning"] = "".join(filter(str.isprintable, last["warning"]))[:_WARNING]
    return {**found, "reason": item.reason} if item.reason else found


def _delayed(record: JobRecord, error: FreepostError, delay: timedelta) -> Event:
    text = f"no room for a retry; it is tried again in {delay.total_seconds():.0f} s: {error.message}"
    return Event("delayed", text, {"job": record.job, "seconds": int(delay.total_seconds()), "message": error.message})


def _expiry(record: JobRecord, item: TaskStatus, *, recorded: bool) -> datetime:
    """When a task's grant has ended. Of a launch that still goes on, the record learns the end last: then, at most."""
    if item.time is None or recorded or (record.launched and item.attempt == 1):
        return record.expires
    return max(record.expires, item.time + (record.expires - record.created))


def _attempts(record: JobRecord) -> set[tuple[str, int]]:
    return {(item.task, item.attempt) for item in record.instances}


def _because(last: Mapping[str, Any]) -> str:
    """Why a task ended badly, and what its VM had to do without.

    An exit code below zero is the signal that ended the job, as subprocess has it.
    """
    code = last.get("exit_code") or 0
    warning = f" (warning: {last['warning']})" if last.get("warning") else ""
    if last.get("reason"):
        return f": {last['reason']}{warning}"
    if code < 0:
        return f": the job was ended by signal {-code}{warning}"
    return (f": the job ended with exit code {code}" if code else "") + warning


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
    for item in watcher.once(record, timedelta(0)):
        row = {"task": item.task, "attempt": item.attempt, "status": item.event, "time": item.time and iso(item.time)}
        rows.append({**row, **_said(watcher.store, record, item)})
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


def to_retry(watcher: Watcher, record: JobRecord, task: str | None, *, required: bool = True) -> list[str]:
    """The tasks that a retry would launch again. Raise BadInput when there is none, if one is `required`."""
    found = watcher.once(record, LOST_AFTER)
    if task is not None:
        found = [item for item in found if item.task == task]
        if not found:
            message = f"{record.job} has no task {task!r}"
            raise BadInput(message)
    again = [item.task for item in found if item.over and not item.succeeded]
    if not again and required:
        running = sum(not item.over for item in found)
        message = f"nothing to retry: {running} tasks are not over, the others succeeded"
        raise BadInput(message, hint="`provision terminate` ends the VMs of those that hang")
    return again


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
