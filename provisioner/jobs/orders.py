"""Gets orders for VMs served, and keeps a journal of them in the bucket: a launch that dies pays for no VM twice.

One object an order, at ``PREFIX/JOB/launch/TOKEN``, written before the order is sent::

    {"version": 1, "job", "tasks", "attempt", "token", "created", "expires", "choice", "options"}
    the user-data, byte for byte, after the line feed

A provider that takes tokens (EC2) answers the same order with the same VMs, and another one under the same token with
an error: so these are the exact bytes, with every option resolved. The user-data holds the signed grant and nothing
before it does. Once served, the object is overwritten: ``"instances"`` is added and the user-data is gone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from provisioner.clock import from_iso, iso
from provisioner.errors import (
    BadInput,
    Conflict,
    FreepostError,
    Incomplete,
    NoCapacity,
    NotFound,
    OverQuota,
    Stopped,
    Throttled,
    Unreachable,
)
from provisioner.output import Event, Report
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import TaskPlan
from provisioner.providers.base import Choice, Instance, Order, Provider
from provisioner.s3.bucket import Store

RESEND_WITHIN = timedelta(minutes=5)  # an older order's signatures have aged; what it started is findable by then
READERS = 16  # requests to the bucket at a time
ATTEMPTS = 3  # at one order whose token the provider has seen with other bytes


@dataclass(frozen=True)
class Entry:
    """One order of the journal. Served when it has `instances`; otherwise `order` has its user-data."""

    key: str
    order: Order
    created: datetime
    instances: tuple[Instance, ...] = ()
    choice: str = ""


class Served(NamedTuple):
    """What an order started, its token in the journal, and when the last grant of its VMs ends."""

    instances: tuple[Instance, ...]
    token: str
    expires: datetime


def _head(order: Order, now: datetime) -> dict[str, Any]:
    """What every line about an order begins with."""
    return {
        "version": 1,
        "job": order.job,
        "tasks": order.tasks,
        "attempt": order.attempt,
        "token": order.token,
        "created": iso(now),
        "expires": iso(order.expires),
    }


@dataclass(frozen=True)
class Journal:
    """The orders of one job's launch."""

    store: Store
    keys: JobKeys

    def note(self, order: Order, choice: str, now: datetime) -> None:
        """Write an order down, before it is sent."""
        head = {**_head(order, now), "choice": choice, "options": dict(order.options)}
        self._put(order.token, json.dumps(head).encode() + b"\n" + order.user_data)

    def settle(self, order: Order, instances: Sequence[Instance], now: datetime) -> None:
        """Write down what an order started; its user-data leaves the bucket."""
        head = {**_head(order, now), "instances": [dataclasses.asdict(item) for item in instances]}
        self._put(order.token, json.dumps(head).encode() + b"\n")

    def drop(self, tokens: Sequence[str]) -> None:
        """Forget orders that started nothing, or whose VMs are in the job's record."""
        self.store.delete([self.keys.launch_root + token for token in tokens])

    def entries(self) -> list[Entry]:
        """Every order, as it was written down."""
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._read, [item.key for item in self.store.list(self.keys.launch_root)])
            return [entry for entry in found if entry]

    def _put(self, token: str, data: bytes) -> None:
        self.store.put(self.keys.launch_root + token, data, content_type="application/octet-stream")

    def _read(self, key: str) -> Entry | None:
        try:
            head, _, user_data = self.store.get(key).partition(b"\n")
        except NotFound:  # another launcher was faster
            return None
        raw: dict[str, Any] = json.loads(head)
        order = Order(
            raw["job"],
            tuple(raw["tasks"]),
            raw["attempt"],
            raw["token"],
            from_iso(raw["expires"]),
            user_data,
            raw.get("options", {}),
        )
        instances = tuple(Instance(**item) for item in raw.get("instances", ()))
        return Entry(key, order, from_iso(raw["created"]), instances, raw.get("choice", ""))


@dataclass(frozen=True)
class OrderPlacer:
    """Where a launch's orders go, from any number of threads. What has no room for one is not asked for the next."""

    provider: Provider
    journal: Journal
    choices: Sequence[Choice]
    clock: Callable[[], datetime]
    left: Mapping[str, str] = field(default_factory=dict)  # by task, the choice that took the VM of its last attempt
    full: dict[str, FreepostError] = field(default_factory=dict)

    def serve(self, job: str, task: TaskPlan, expires: datetime, user_data: bytes) -> Served:
        """Order VMs, of one choice after the other. Raise NoCapacity, with each one's own error, when none has room.

        Raise Conflict when only another attempt can help, and Unreachable, with the order left in the journal, when
        nobody knows what became of it.
        """
        left = {self.left.get(member) for member in task.members}
        for choice in sorted(self.choices, key=lambda choice: choice.name in left):
            if choice.name in self.full:
                continue
            token = _token(task.token, choice)
            order = Order(job, task.members, task.attempt, token, expires, user_data, choice.options, fresh=True)
            self.journal.note(order, choice.name, self.clock())
            try:
                found = [dataclasses.replace(item, place=choice.name) for item in self.provider.launch(order)]
            except NoCapacity as error:
                self.full[choice.name] = error
                self.journal.drop([token])
            except (Unreachable, Stopped):  # it may have been sent
                raise
            except FreepostError:
                self.journal.drop([token])
                raise
            else:
                self.journal.settle(order, found, self.clock())
                return Served(tuple(found), token, expires)
        errors = [self.full[choice.name] for choice in self.choices]
        named = "; ".join(
            ": ".join(filter(None, (choice.name, str(self.full[choice.name])))) for choice in self.choices
        )
        kind = OverQuota if all(isinstance(error, OverQuota) for error in errors) else NoCapacity
        raise kind(f"no choice has room: {named}", hint=errors[-1].hint)

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
