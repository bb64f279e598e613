"""Decides what a poll of a job means: which of its tasks are lost, and which are to be launched again.

Pure: what was read, the time and what the last decision remembered go in; `provisioner.jobs.watch` reads and acts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from agent.layout import LAUNCHED
from provisioner.jobs.record import Attempt, JobRecord, attempts_with_vm
from provisioner.jobs.status import LOST, WAITING, TaskStatus
from provisioner.providers.base import Instance, Phase, State

LOST_AFTER = timedelta(seconds=20)  # a VM that is gone may have posted its last event just before
LISTED_AFTER = timedelta(minutes=5)  # a provider knows every VM that it has started


@dataclass(frozen=True)
class Observation:
    """What one poll has read.

    `record` is the job's, as new as it had to be; `statuses` what the VMs posted; `instances` the VMs of attempts that
    are not over, and `states` how the provider says these are, by id; `without_vm` the attempts that were announced and
    of which it is certain that no VM was started (`provisioner.jobs.journal`).
    """

    record: JobRecord
    statuses: Sequence[TaskStatus]
    instances: Sequence[Instance] = ()
    states: Mapping[str, State] = field(default_factory=dict)
    without_vm: frozenset[Attempt] = frozenset()

    @cached_property
    def unfinished(self) -> dict[Attempt, TaskStatus]:
        """The latest attempts that are not over by what they posted."""
        return {item.key: item for item in self.statuses if not item.is_final}


@dataclass(frozen=True)
class Decision:
    """Where every task stands, lost ones included; and since when each VM or attempt has been seen gone."""

    statuses: list[TaskStatus]
    gone: dict[str, datetime]


def decide(
    seen: Observation, now: datetime, gone: Mapping[str, datetime], patience: timedelta = LOST_AFTER
) -> Decision:
    """Say which tasks are lost: those that have no VM any more, or no grant, and will post nothing.

    `gone` is the last decision's; after `patience` a VM that has been gone is lost, at the second poll at the earliest.
    """
    expired = _expired(seen, now)
    vanished, still = _vanished(seen, now, gone, patience)
    unstarted, since = _unstarted(seen, now, still)
    lost = {**expired, **vanished, **unstarted}
    statuses = [
        dataclasses.replace(item, event=LOST, reason=lost[item.key], unstarted=item.key in since)
        if item.key in lost
        else item
        for item in seen.statuses
    ]
    return Decision(statuses, {**still, **{attempt_name(each): start for each, start in since.items()}})


def _expired(seen: Observation, now: datetime) -> dict[Attempt, str]:
    """Tasks whose grant has ended. A VM that nobody here started is known by its posts alone: none can come now."""
    have = attempts_with_vm(seen.record)
    return {
        each: "its grant has expired"
        for each, item in seen.unfinished.items()
        if now >= _expiry(seen.record, item, recorded=each in have) + LOST_AFTER
    }


def _expiry(record: JobRecord, item: TaskStatus, *, recorded: bool) -> datetime:
    """When a task's grant has ended. Of a launch that still goes on, the record learns the end last: then, at most."""
    if item.time is None or recorded or (record.launched and item.attempt == 1):
        return record.expires
    return max(record.expires, item.time + (record.expires - record.created))


def _vanished(
    seen: Observation, now: datetime, gone: Mapping[str, datetime], patience: timedelta
) -> tuple[dict[Attempt, str], dict[str, datetime]]:
    """Tasks whose VM has been gone for long enough; and since when each VM is gone, as `Decision.gone`."""
    lost, still = {}, dict(gone)
    for item in seen.instances:
        state, last = seen.states[item.id], seen.unfinished[item.task, item.attempt].time
        if state.phase is not Phase.GONE or not (state.known or last is None or now - last >= LISTED_AFTER):
            still.pop(item.id, None)
        elif item.id not in still:
            still[item.id] = now
        elif now - still[item.id] >= patience:
            lost[item.task, item.attempt] = state.reason
    return lost, still


def _unstarted(
    seen: Observation, now: datetime, gone: Mapping[str, datetime]
) -> tuple[dict[Attempt, str], dict[Attempt, datetime]]:
    """Attempts that were announced and never had a VM: the lost ones; and since when each is known to be so."""
    lost, since = {}, {}
    for each in seen.without_vm:
        item = seen.unfinished[each]
        if item.event in (LAUNCHED, WAITING):
            since[each] = gone.get(attempt_name(each), min(now, item.time or now))
            if now - since[each] >= LOST_AFTER:
                lost[each] = "it was announced, and no VM was started for it"
    return lost, since


def attempt_name(attempt: Attempt) -> str:
    """What stands for an attempt without a VM among the ids of VMs."""
    return "/".join(map(str, attempt))


def to_launch_again(found: Sequence[TaskStatus], retries: int) -> list[str]:
    """The tasks that ended badly and have retries left; one that never had a VM has used none up."""
    return [
        item.task for item in found if item.is_final and not item.succeeded and item.attempt - item.unstarted <= retries
    ]
