"""Attempts that were announced and that no record knows: their launcher died, found no room, or is at work right now.

An order is in the journal from before it is sent until its VMs are in the record (`provisioner.jobs.orders`). So an
attempt that is in neither has no VM, and one whose order nobody has settled for as long as it may be sent again has
none either if the provider can't find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from provisioner.jobs import index
from provisioner.jobs.orders import RESEND_WITHIN, Journal
from provisioner.jobs.record import JobRecord
from provisioner.plan.layout import JobKeys
from provisioner.providers.base import Instance, Provider
from provisioner.s3.bucket import Store

Attempt = tuple[str, int]


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
    record = index.read(store, record.job)  # a launcher elsewhere may have written since
    ahead = _missing(record, ahead)
    found: list[Instance] = []
    busy: set[Attempt] = set()
    for entry in Journal(store, JobKeys(store.prefix, record.job)).entries() if ahead else ():
        started = entry.instances or provider.find_instances(entry.order) or ()
        found += started
        if not started and now - entry.created < RESEND_WITHIN:
            busy |= {(task, entry.order.attempt) for task in entry.order.tasks}
    have = {(item.task, item.attempt) for item in found}
    return Unrecorded(record, found, frozenset(ahead - have - busy))


def _missing(record: JobRecord, attempts: Iterable[Attempt]) -> set[Attempt]:
    have = {(item.task, item.attempt) for item in record.instances}
    return {each for each in attempts if each[1] > 1 and each not in have} if record.launched else set()
