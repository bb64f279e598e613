"""Orders the VMs of a plan's tasks: each is signed for from that moment, announced and ordered, several at a time.

`TaskOrders` orders all tasks of a launch. `OrderPlacer` places one order, with one choice of the provider's after the
other; it is in the journal before it is sent (`provisioner.jobs.journal`). `Started` counts and reports the VMs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from agent.grant import for_index
from agent.layout import LAUNCHED
from provisioner.errors import (
    BadInput,
    Conflict,
    FreepostError,
    Incomplete,
    NoCapacity,
    OverQuota,
    Stopped,
    Throttled,
    Unreachable,
)
from provisioner.jobs.journal import RESEND_WITHIN, Entry, OrderJournal
from provisioner.jobs.vm_documents import VmDocuments
from provisioner.output import Event, Report
from provisioner.plan.layout import parse_status
from provisioner.plan.plan import Plan, TaskPlan, launch_token
from provisioner.providers.base import Choice, Instance, Order, Phase, Provider

ATTEMPTS = 3  # at one order whose token the provider has seen with other bytes


class Served(NamedTuple):
    """What an order started, its token in the journal, and when the last grant of its VMs ends."""

    instances: tuple[Instance, ...]
    token: str
    expires: datetime


@dataclass(frozen=True)
class OrderPlacer:
    """Places a launch's orders, from any number of threads. A choice without room for one is not asked for the next.

    `avoid` has, by task, the choice that took the VM of its last attempt; `exhausted` why each choice has no room.
    """

    provider: Provider
    journal: OrderJournal
    choices: Sequence[Choice]
    clock: Callable[[], datetime]
    avoid: Mapping[str, str] = field(default_factory=dict)
    exhausted: dict[str, FreepostError] = field(default_factory=dict)

    def place(self, job: str, task: TaskPlan, expires: datetime, user_data: bytes) -> Served:
        """Order VMs, of one choice after the other. Raise NoCapacity, with each one's own error, when none has room.

        Raise Conflict when only another attempt can help, and Unreachable, with the order left in the journal, when
        nobody knows what became of it.
        """
        avoid = {self.avoid.get(member) for member in task.members}
        for choice in sorted(self.choices, key=lambda choice: choice.name in avoid):
            if choice.name in self.exhausted:
                continue
            token = _token(task.token, choice)
            order = Order(job, task.members, task.attempt, token, expires, user_data, choice.options, fresh=True)
            try:
                return self._send(order, choice)
            except NoCapacity as error:
                self.exhausted[choice.name] = error
        raise self._no_room()

    def _send(self, order: Order, choice: Choice) -> Served:
        """Note one order, send it, and note what it started. Drop it if it certainly started nothing."""
        self.journal.note(order, choice.name, self.clock())
        try:
            found = [dataclasses.replace(item, place=choice.name) for item in self.provider.launch(order)]
        except (Unreachable, Stopped):  # it may have been sent
            raise
        except FreepostError:
            self.journal.drop([order.token])
            raise
        self.journal.settle(order, found, self.clock())
        return Served(tuple(found), order.token, order.expires)

    def _no_room(self) -> NoCapacity:
        """Return the error for an order that no choice had room for."""
        errors = [self.exhausted[choice.name] for choice in self.choices]
        named = "; ".join(
            ": ".join(filter(None, (choice.name, str(self.exhausted[choice.name])))) for choice in self.choices
        )
        kind = OverQuota if all(isinstance(error, OverQuota) for error in errors) else NoCapacity
        return kind(f"no choice has room: {named}", hint=errors[-1].hint)

    def resume(self, entry: Entry) -> Served:
        """Find the VMs of an order that was noted and never settled; send it again, as it is, if it had none.

        Nothing comes back for an order too old to send, or that found no room: its tasks are to be ordered anew.
        """
        order, now = entry.order, self.clock()
        if entry.instances:
            return Served(entry.instances, order.token, order.expires)
        found = self.provider.find_instances(order)
        if found is None:  # it finds the VMs of a token when the order is launched again, whatever that says
            return Served((), order.token, order.expires)
        try:
            if not found and now - entry.created < RESEND_WITHIN and now < order.expires:
                found = self.provider.launch(order)
        except (NoCapacity, Conflict):
            found = ()
        if found:
            found = [dataclasses.replace(item, place=entry.choice) for item in found]
            self.journal.settle(order, found, now)
        else:
            self.journal.drop([order.token])
        return Served(tuple(found), order.token, order.expires)


@dataclass
class Started:
    """What a launch has started so far, reported as it happens. Any number of threads may add to it."""

    job: str
    provider: str
    total: int
    report: Report
    instances: list[Instance] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    expires: datetime | None = None  # of the last grant
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, served: Served) -> None:
        """Take what one order started."""
        found = served.instances
        if not found:
            return
        with self._lock:
            self.instances.extend(found)
            self.tokens.append(served.token)
            self.expires = max(self.expires or served.expires, served.expires)
            done, last = len(self.instances), found[-1]
            data = {"job": self.job, "done": done, "total": self.total}
            if len(found) == 1:
                text = f"launched task {last.task} of {self.job} on {self.provider}: {last.id}"
                data.update(task=last.task, attempt=last.attempt, instance=last.id)
            else:
                text = f"launched {len(found)} tasks of {self.job} on {self.provider}, {found[0].task} to {last.task}"
                data.update(instances={item.task: item.id for item in found}, attempt=last.attempt)
            self.report(Event("launched", text + f" ({done} of {self.total})" * (self.total > 1), data))

    def failure(self, error: FreepostError) -> FreepostError:
        """What to raise when `error` ended the launch: Incomplete after a part of it, an error of its kind before."""
        hint = f"{error.hint or 'see the message'}; the same command goes on from here"
        if isinstance(error, Unreachable) and not isinstance(error, Throttled):
            hint += ", with whatever VM was started without an answer"
        if self.instances:
            done = f"{self.job}: started {len(self.instances)} of {self.total} tasks, then: "
            return Incomplete(done + error.message, hint=hint)
        message = f"{self.job}: started none of {self.total} tasks: {error.message}"
        if isinstance(error, BadInput):
            return BadInput(message, hint=error.hint, faults=error.faults)
        return type(error)(message, hint=hint)


@dataclass(frozen=True)
class TaskOrders:
    """The orders of one launch; what they start is added to `started`."""

    plan: Plan
    documents: VmDocuments
    placer: OrderPlacer
    started: Started

    def resume(self) -> dict[str, int]:
        """Find what an interrupted launch had ordered. Return the tasks still to be ordered, each with its attempt.

        A task whose VM ended before it posted anything gets its next attempt; the watcher judges one whose VM did.
        """
        wanted = {name: task.attempt for task in self.plan.tasks for name in task.members}
        entries = self.placer.journal.entries()
        for entry in entries:
            self.started.add(self.placer.resume(entry))
        if not entries:
            return wanted
        root, store, provider = self.plan.keys.status_root, self.documents.store, self.documents.provider
        found = [parse_status(root, entry.key) for entry in store.list(root)]
        lived = {(key.task, key.attempt) for key in found if key and key.name != LAUNCHED}
        resumed = self.started.instances
        states = provider.state(resumed) if resumed else {}
        ended = {name for name, state in states.items() if state.phase is Phase.GONE and state.known}
        gone = {(item.task, item.attempt) for item in resumed if item.id in ended}
        return {
            task: attempt + ((task, attempt) in gone)
            for task, attempt in wanted.items()
            if (task, attempt) not in lived
        }

    def order_all(self, tasks: Sequence[TaskPlan]) -> None:
        """Order these, as many at a time as suits the provider. An error ends it, once those under way are done."""
        provider = self.documents.provider
        with ThreadPoolExecutor(provider.concurrency) as pool:
            orders = [pool.submit(self._order, task) for task in tasks]
            try:
                for order in as_completed(orders):
                    order.result()
            except KeyboardInterrupt:
                provider.stop_waiting()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def _order(self, task: TaskPlan) -> None:
        """Sign, announce and order one task or group; at its next attempt if its token was used for another order."""
        first = self.plan.tasks[0]
        for attempt in range(task.attempt, task.attempt + ATTEMPTS):
            current = TaskPlan(task.task, attempt, launch_token(self.plan.job, task.task, attempt))
            plan = self._from_now()
            grant, user_data = self.documents.render(plan, current, use=True)
            for index, name in enumerate(current.members):
                if (name, attempt) != (first.members[0], first.attempt):  # that one proved the policy
                    self.documents.announce(plan, for_index(grant, index))
            try:
                return self.started.add(self.placer.place(plan.job, current, plan.grants_end, user_data.data))
            except Conflict as error:
                conflict = error
        raise conflict

    def _from_now(self) -> Plan:
        """Return the plan as if it were made now: of thousands of VMs, the last are ordered an hour after the first.

        Raise Expiry when what signs ends too early for a VM that starts now.
        """
        plan, now = self.plan, self.documents.clock()
        signing_ends = self.documents.sessions.check(plan.spec, now, now + timedelta(seconds=plan.spec.signed))
        return plan.postponed(now - plan.created, signing_ends)


def _token(token: str, choice: Choice) -> str:
    """The order's own token: at most 64 ASCII characters, made from job, task and attempt, and the choice's name."""
    return hashlib.sha256(f"{token}/{choice.name}".encode()).hexdigest() if choice.name else token
