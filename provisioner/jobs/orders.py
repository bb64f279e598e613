"""Gets orders for VMs served, one choice of the provider's after the other, and counts what was started.

Each order is in the journal before it is sent (`provisioner.jobs.journal`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

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
from provisioner.jobs.journal import RESEND_WITHIN, Entry, Journal
from provisioner.output import Event, Report
from provisioner.plan.plan import TaskPlan
from provisioner.providers.base import Choice, Instance, Order, Provider


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
    journal: Journal
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
        """Note one order, send it, and note what it started; one that certainly started nothing is forgotten."""
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
        """What to raise when no choice has room."""
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
    """What a launch has started so far, told as it happens. Any number of threads may add to it."""

    job: str
    provider: str
    total: int
    report: Report
    instances: list[Instance] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    ends: datetime | None = None  # the last grant's
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, served: Served) -> None:
        """Take what one order started."""
        found = served.instances
        if not found:
            return
        with self._lock:
            self.instances.extend(found)
            self.tokens.append(served.token)
            self.ends = max(self.ends or served.expires, served.expires)
            done, last = len(self.instances), found[-1]
            data = {"job": self.job, "done": done, "total": self.total}
            if len(found) == 1:
                text = f"launched task {last.task} of {self.job} on {self.provider}: {last.id}"
                data.update(task=last.task, attempt=last.attempt, instance=last.id)
            else:
                text = f"launched {len(found)} tasks of {self.job} on {self.provider}, {found[0].task} to {last.task}"
                data.update(instances={item.task: item.id for item in found}, attempt=last.attempt)
            self.report(Event("launched", text + f" ({done} of {self.total})" * (self.total > 1), data))

    def ended(self, error: FreepostError) -> FreepostError:
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


def _token(token: str, choice: Choice) -> str:
    """The order's own token: at most 64 ASCII characters, made from job, task and attempt, and the choice's name."""
    return hashlib.sha256(f"{token}/{choice.name}".encode()).hexdigest() if choice.name else token
