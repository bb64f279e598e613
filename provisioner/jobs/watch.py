"""Follows a job: polls what its VMs posted and how they are, retries what failed, and waits for the end.

What a poll means is decided in `provisioner.jobs.decide`, which is pure. `Watcher` polls once, until no VM is in doubt
(`settle`), or until every task is over (`follow`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent.layout import LAUNCHED
from provisioner.errors import BadInput, FreepostError, NoCapacity
from provisioner.jobs import journal, status
from provisioner.jobs.decide import LOST_AFTER, Decision, Observation, attempt_name, decide, to_launch_again
from provisioner.jobs.record import Attempt, JobRecord, attempts_with_vm, read_record
from provisioner.jobs.status import TaskStatus
from provisioner.output import Event, Report
from provisioner.providers.base import Provider
from provisioner.s3.bucket import Store

POLL_SECONDS = (0.5, 10.0)  # between two polls: at first, and at most
# Between retries that find no room: at first, and at most.
RETRY_PAUSES = (timedelta(seconds=30), timedelta(minutes=10))


@dataclass(frozen=True)
class Watcher:
    """Follows a job. `retry` launches the next attempt of tasks (`Launcher.retry`), where there is one.

    `finished` is called with the task and attempt of each that is over (`provisioner.jobs.revoke`). `renew` renews the
    grants of those that run, and says in how many seconds it wants to be called again (`provisioner.jobs.renew`).
    """

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    sleep: Callable[[float], None]
    report: Report
    retry: Callable[[JobRecord, Sequence[str]], JobRecord] | None = None
    finished: Callable[[JobRecord, str, int], None] | None = None
    renew: Callable[[JobRecord, Sequence[TaskStatus]], float | None] | None = None

    def observe(self, record: JobRecord, now: datetime) -> Observation:
        """Read what the VMs posted and how the provider says they are. Nothing is changed anywhere."""
        seen = Observation(record, status.read(self.store, record))
        more = journal.look_up(self.store, self.provider, record, seen.unfinished, now)
        everything = dict.fromkeys([*more.record.instances, *more.instances])
        instances = [item for item in everything if (item.task, item.attempt) in seen.unfinished]
        states = self.provider.state(instances) if instances else {}
        return Observation(more.record, seen.statuses, instances, states, more.without_vm)

    def poll(self, record: JobRecord, gone: Mapping[str, datetime], patience: timedelta = LOST_AFTER) -> Decision:
        """Tell where every task stands, as `decide` sees it. `gone` is what the last poll returned, empty at first."""
        now = self.clock()
        return decide(self.observe(record, now), now, gone, patience)

    def settle(self, record: JobRecord, patience: timedelta) -> list[TaskStatus]:
        """Poll, and where a VM is gone poll on for `patience`: it may have posted its last event just before."""
        gone: Mapping[str, datetime] = {}
        while True:
            decision = self.poll(record, gone, patience)
            gone = decision.gone
            unfinished = {item.key for item in decision.statuses if not item.is_final}
            doubtful = {item.id for item in record.instances if (item.task, item.attempt) in unfinished}
            doubtful |= set(map(attempt_name, unfinished)) if patience else set()
            if not doubtful & set(gone):
                return decision.statuses
            self.sleep(min(POLL_SECONDS[1], patience.total_seconds() / 4))

    def follow(self, record: JobRecord, *, launched: bool = False) -> list[TaskStatus]:
        """Report each change until every task is over, launching retries where the spec has some left.

        `launched`: the launch of these attempts was reported already.
        """
        state = _FollowState(self, record, attempts_with_vm(record) if launched else set())
        while True:
            decision = self.poll(state.record, state.gone)
            found, state.gone = decision.statuses, decision.gone
            changed = state.report_changes(found)
            again = to_launch_again(found, record.spec.retries) if self.retry else []
            if again:
                state.launch_again(again)
            soon = self.renew(state.record, found) if self.renew else None
            if not again and all(item.is_final for item in found):
                return found
            pause = state.pause(changed=changed)
            self.sleep(pause if soon is None else min(pause, soon))


@dataclass
class _FollowState:
    """One `Watcher.follow`: what it has to remember from one poll to the next.

    `reported` are the attempts whose launch was reported; `due` is when a retry may be tried, `delay` how long
    the next one waits if it finds no room.
    """

    watcher: Watcher
    record: JobRecord
    reported: set[Attempt]
    before: dict[str, TaskStatus] = field(default_factory=dict)
    gone: Mapping[str, datetime] = field(default_factory=dict)
    due: datetime | None = None
    delay: timedelta = RETRY_PAUSES[0]
    seconds: float = POLL_SECONDS[0]

    def report_changes(self, found: Sequence[TaskStatus]) -> bool:
        """Report what is new since the last poll. Return whether anything is."""
        changed = [item for item in found if self.before.get(item.task) != item]
        for item in changed:
            if item.event != LAUNCHED or item.key not in self.reported:
                self.watcher.report(self._event(item))
            # An attempt that never had a VM is launched again under its number: its grant must stay valid.
            if item.is_final and not item.unstarted and self.watcher.finished is not None:
                self.watcher.finished(self.record, item.task, item.attempt)
        self.before = {item.task: item for item in found}
        return bool(changed)

    def launch_again(self, tasks: Sequence[str]) -> None:
        """Launch the next attempt of these tasks, unless the last try found no room a moment ago."""
        watcher, older = self.watcher, attempts_with_vm(self.record)
        if watcher.retry is None or (self.due is not None and watcher.clock() < self.due):
            return
        try:
            self.record = watcher.retry(self.record, tasks)
            self.delay = RETRY_PAUSES[0]
        except FreepostError as error:
            if not isinstance(error.__cause__ or error, NoCapacity):
                raise
            self.record = read_record(watcher.store, self.record.job)  # some may have been started
            self.reported |= {item.key for item in status.read(watcher.store, self.record)}
            watcher.report(_delayed(self.record, error, self.delay))
            self.due, self.delay = watcher.clock() + self.delay, min(self.delay * 2, RETRY_PAUSES[1])
        self.reported |= attempts_with_vm(self.record) - older

    def pause(self, *, changed: bool) -> float:
        """Return the seconds until the next poll: few after a change, and then more and more."""
        self.seconds = POLL_SECONDS[0] if changed else min(self.seconds * 1.5, POLL_SECONDS[1])
        return self.seconds

    def _event(self, item: TaskStatus) -> Event:
        data: dict[str, Any] = {
            "job": self.record.job,
            "task": item.task,
            "attempt": item.attempt,
            "status": item.event,
        }
        text = f"task {item.task} {item.event}"
        if item.is_final:
            known = status.details(self.watcher.store, self.record, item)
            data.update(known)
            text += status.explain_end(known)
        return Event("task", text, data)


def _delayed(record: JobRecord, error: FreepostError, delay: timedelta) -> Event:
    text = f"no room for a retry; it is tried again in {delay.total_seconds():.0f} s: {error.message}"
    return Event("delayed", text, {"job": record.job, "seconds": int(delay.total_seconds()), "message": error.message})


def to_retry(watcher: Watcher, record: JobRecord, task: str | None, *, required: bool = True) -> list[str]:
    """The tasks that a retry would launch again. Raise BadInput when there is none, if one is `required`."""
    found = status.select(record, watcher.settle(record, LOST_AFTER), task)
    again = [item.task for item in found if item.is_final and not item.succeeded]
    if not again and required:
        running = sum(not item.is_final for item in found)
        message = f"nothing to retry: {running} tasks are not over, the others succeeded"
        raise BadInput(message, hint="`provision terminate` ends the VMs of those that hang")
    return again
