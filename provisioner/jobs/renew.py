"""Renews the grants of a running job: puts a newly signed one where the present one says that it will be looked for.

The mailboxes of an attempt are numbered keys; a grant in the one names the next. So the bucket tells which is due, and
any operator's machine may renew, several at once too: they write the same keys. A grant is renewed when half of its
time is over, since the agent looks when a third is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent.grant import dump
from provisioner import units
from provisioner.clock import iso
from provisioner.errors import BadInput, Expiry, FreepostError
from provisioner.jobs import events
from provisioner.jobs.record import Attempt, JobRecord, keys_of
from provisioner.jobs.role_session import RoleSessions
from provisioner.jobs.signers import vm_signer
from provisioner.jobs.status import TaskStatus
from provisioner.output import Event, Report
from provisioner.plan.layout import parse_mail
from provisioner.plan.plan import UPLOAD_MARGIN, Plan
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.providers.base import Provider
from provisioner.s3.bucket import Store
from provisioner.s3.signing import MAX_LIFETIME

AT_ONCE = 8
RETRY_AFTER = timedelta(seconds=60)  # at most, after a renewal that failed or would have gained nothing


@dataclass
class Renewer:
    """Renews the grants of one job after another. `sessions` is asked each time: what signs may end, too."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    report: Report
    sessions: Callable[[], RoleSessions]
    _due: dict[Attempt, datetime] = field(default_factory=dict, repr=False)
    _ends: dict[Attempt, datetime] = field(default_factory=dict, repr=False)
    _failure: str = field(default="", repr=False)  # the last one that was reported, so that it is reported once

    def tick(self, record: JobRecord, found: Sequence[TaskStatus]) -> float | None:
        """Renew what is due of the running tasks, and tidy up after those that are over.

        Return the seconds until the next is due; None when nothing is to be renewed. What fails is reported and tried
        again: a watcher goes on.
        """
        if record.spec.renew is None or self.clock() >= record.deadline:
            return None
        life = timedelta(seconds=record.spec.renew)
        running = [item.key for item in found if item.attempt and not item.is_final]
        over = [each for each in self._due if each not in running]
        try:
            for task, attempt in over:
                self._drop(record, task, attempt)
            due = [each for each in running if self._due.get(each, self.clock()) <= self.clock()]
            if due:
                self._renew(record, due, life)
                self._failure = ""
        except FreepostError as error:
            text = f"the grants of {record.job} could not be renewed: {error.message}. {error.hint}".strip()
            if text != self._failure:
                self._failure = text
                self.report(Event(events.NOT_RENEWED, text, {"job": record.job, "text": text}))
            self._due.update(dict.fromkeys(running, self.clock() + min(RETRY_AFTER, life / 10)))
        soonest = min((self._due[each] for each in running), default=None)
        return None if soonest is None else max(0.0, (soonest - self.clock()).total_seconds())

    def extend(self, record: JobRecord, found: Sequence[TaskStatus], life: timedelta | None) -> list[Event]:
        """Renew the grants of every running task now, to live for `life`; for as long as the job says if None."""
        if record.spec.renew is None:
            message = f"the grants of {record.job} name no mailbox, so they can't be renewed"
            raise BadInput(message, hint="set renew in job.yaml (such as renew: 1h) and launch it anew")
        if life is not None and life > MAX_LIFETIME:
            raise BadInput("a policy lives for 7 days at most", argument="life", hint="renew it again later")
        if self.clock() >= record.deadline:
            message = f"the deadline of {record.job} passed at {iso(record.deadline)}: its VMs are off"
            raise Expiry(message, hint=f"`provision retry {record.job}` launches what is not done")
        running = [item.key for item in found if item.attempt and not item.is_final]
        if not running:
            raise BadInput(f"no task of {record.job} is running", hint=f"`provision status {record.job}` tells more")
        self._renew(record, running, life or timedelta(seconds=record.spec.renew))
        return [
            Event(
                "renewed",
                f"task {task}: its grant is renewed until {iso(self._ends[task, attempt])}",
                {"job": record.job, "task": task, "attempt": attempt, "expires": iso(self._ends[task, attempt])},
            )
            for task, attempt in running
        ]

    def _renew(self, record: JobRecord, due: Sequence[Attempt], life: timedelta) -> None:
        """Put the next grant of each into its mailbox. Raise the first failure, once all were tried."""
        numbers = latest(self.store, record)
        sessions = self.sessions()

        def one(each: Attempt) -> FreepostError | None:
            try:
                self._renew_one(record, each, numbers.get(each, 0) + 1, life, sessions)
            except FreepostError as error:
                return error
            return None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            failed = [error for error in pool.map(one, due) if error is not None]
        if failed:
            raise failed[0]

    def _renew_one(
        self, record: JobRecord, each: Attempt, number: int, life: timedelta, sessions: RoleSessions
    ) -> None:
        now = self.clock()
        plan = self._plan(record, each, life, now, sessions)
        task = plan.tasks[0]
        credentials = sessions.credentials(plan, task)
        ends = min(plan.expires, credentials.expires or plan.expires)
        if ends <= self._ends.get(each, now):  # a session that is about to end: the same grant again is no help
            self._due[each] = now + min(RETRY_AFTER, life / 10)
            return
        plan = dataclasses.replace(plan, expires=ends)
        grant = vm_signer(self.provider, plan, credentials, now).grant(task, next_renewal=number + 1)
        self.store.put(plan.keys.mailbox_key(*each, number), dump(grant).encode())
        self._ends[each], self._due[each] = ends, now + (ends - now) / 2

    def _plan(self, record: JobRecord, each: Attempt, life: timedelta, now: datetime, sessions: RoleSessions) -> Plan:
        """The plan of one task's next grant. The job's deadline stays as it is."""
        spec = dataclasses.replace(record.spec, renew=int(life.total_seconds()))
        request = LaunchRequest(
            spec,
            job=record.job,
            bucket=self.store.bucket,
            prefix=self.store.prefix,
            provider=record.provider,
            user_data_limit=self.provider.user_data_limit,
            now=now,
            credentials_expire=sessions.check(spec, now, now),
            attempts=dict([each]),
            inputs=record.inputs,
            has_guest=self.provider.has_guest,
        )
        plan = make_plan(request)
        expires = min(plan.expires, record.deadline + UPLOAD_MARGIN)
        return dataclasses.replace(plan, deadline=record.deadline, expires=expires)

    def _drop(self, record: JobRecord, task: str, attempt: int) -> None:
        """Delete the renewed grants of an attempt that is over."""
        prefix = keys_of(self.store, record).mail(task, attempt)
        self.store.delete([item.key for item in self.store.list(prefix)])
        self._due.pop((task, attempt), None)


def latest(store: Store, record: JobRecord) -> dict[Attempt, int]:
    """The number of the last renewed grant of each attempt that has one."""
    root = keys_of(store, record).mail_root
    found: dict[Attempt, int] = {}
    for item in store.list(root):
        key = parse_mail(root, item.key)
        if key is not None:
            attempt = key.task, key.attempt
            found[attempt] = max(found.get(attempt, 0), key.number)
    return found


def drop(store: Store, record: JobRecord) -> None:
    """Delete every renewed grant of a job whose VMs are ended."""
    root = keys_of(store, record).mail_root
    store.delete([item.key for item in store.list(root)] if record.spec.renew else [])


def alarms(report: Report) -> Report:
    """A report of nothing but what the operator must not miss: that grants could not be renewed."""

    def pick(event: Event) -> None:
        if event.name == events.NOT_RENEWED:
            report(event)

    return pick


def renewal_reminder(record: JobRecord) -> Event | None:
    """What the operator of a job whose policies are renewed has to see to; None for another job."""
    if record.spec.renew is None:
        return None
    life = units.show_seconds(record.spec.renew)
    text = (
        f"policies live for {life}: keep `provision watch {record.job}` running, which renews them, or run "
        f"`provision extend {record.job}` in time. Uploads wait for it, until {iso(record.deadline)} at most"
    )
    data: Mapping[str, object] = {"job": record.job, "renew": record.spec.renew, "until": iso(record.deadline)}
    return Event(events.RENEWAL, text, data)


def remind(record: JobRecord, report: Report) -> None:
    """Report what `renewal_reminder` says, if anything."""
    event = renewal_reminder(record)
    if event is not None:
        report(event)
