"""A launch's orders, noted in the bucket, so that a launch that dies pays for no VM twice.

One object an order, at ``PREFIX/JOB/launch/TOKEN``, written before the order is sent::

    {"version": 1, "job", "tasks", "attempt", "token", "created", "expires", "choice", "options"}
    the user-data, byte for byte, after the line feed

A provider that takes tokens (EC2) answers the same order with the same VMs, and another one under the same token with
an error: so these are the exact bytes, with every option resolved. The user-data holds the signed grant and nothing
before it does. Once served, the object is overwritten: ``"instances"`` is added and the user-data is gone.

The journal also tells of attempts that were announced and that no record knows: their launcher died, found no room, or
is at work right now (`look_up`). An order is in the journal from before it is sent until its VMs are in the record. So
an attempt that is in neither has no VM, and one whose order nobody has settled for as long as it may be sent again has
none either if the provider can't find it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from provisioner.clock import from_iso, iso
from provisioner.errors import NotFound
from provisioner.jobs.record import Attempt, JobRecord, attempts_with_vm, keys_of, read_record
from provisioner.plan.layout import JobKeys, parse_order
from provisioner.providers.base import Instance, Order, Provider
from provisioner.s3.bucket import Store

RESEND_WITHIN = timedelta(minutes=5)  # an older order's signatures have aged; what it started is findable by then
READERS = 16  # requests to the bucket at a time


@dataclass(frozen=True)
class Entry:
    """One order of the journal. Served when it has `instances`; otherwise `order` has its user-data."""

    key: str
    order: Order
    created: datetime
    instances: tuple[Instance, ...] = ()
    choice: str = ""


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
class OrderJournal:
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
        self.store.delete([self.keys.order(token) for token in tokens])

    def entries(self) -> list[Entry]:
        """Every order, as it was written down."""
        with ThreadPoolExecutor(READERS) as pool:
            root = self.keys.launch_root
            keys = [item.key for item in self.store.list(root) if parse_order(root, item.key)]
            found = pool.map(self._read, keys)
            return [entry for entry in found if entry]

    def _put(self, token: str, data: bytes) -> None:
        self.store.put(self.keys.order(token), data, content_type="application/octet-stream")

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
class Unrecorded:
    """What was found out: the record as it is in the bucket now, VMs that it lacks, and attempts that have no VM."""

    record: JobRecord
    instances: Sequence[Instance] = ()
    without_vm: frozenset[Attempt] = frozenset()


def look_up(
    store: Store, provider: Provider, record: JobRecord, attempts: Iterable[Attempt], now: datetime
) -> Unrecorded:
    """Find out about these attempts, each the latest of its task. Nothing is changed anywhere.

    Of a launch that was never completed nothing is said: launching again goes on with it. A first attempt may be that
    of a VM which something else starts, and its posts alone tell of.
    """
    ahead = _missing(record, attempts)
    if not ahead:
        return Unrecorded(record)
    record = read_record(store, record.job)  # a launcher elsewhere may have written since
    ahead = _missing(record, ahead)
    found: list[Instance] = []
    busy: set[Attempt] = set()
    for entry in OrderJournal(store, keys_of(store, record)).entries() if ahead else ():
        started = entry.instances or provider.find_instances(entry.order) or ()
        found += started
        if not started and now - entry.created < RESEND_WITHIN:
            busy |= {(task, entry.order.attempt) for task in entry.order.tasks}
    have = {(item.task, item.attempt) for item in found}
    return Unrecorded(record, found, frozenset(ahead - have - busy))


def _missing(record: JobRecord, attempts: Iterable[Attempt]) -> set[Attempt]:
    have = attempts_with_vm(record)
    return {each for each in attempts if each[1] > 1 and each not in have} if record.launched else set()
