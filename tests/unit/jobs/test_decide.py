"""What a poll of a job means, as a table: posts, VMs and the time in, lost tasks out. No store, provider or clock."""

from datetime import datetime, timedelta, timezone

import pytest

from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs.decide import LISTED_AFTER, LOST_AFTER, Observation, decide, to_launch_again
from provisioner.jobs.record import JobRecord
from provisioner.jobs.status import TaskStatus
from provisioner.providers.base import Instance, Phase, State

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
VM = Instance("vm", "0", 1)
RUNNING, GONE, UNLISTED = State(Phase.RUNNING), State(Phase.GONE, "it ended"), State(Phase.GONE, "none", known=False)


def seen(event="started", *, state=RUNNING, ago=HOUR / 2, attempt=1, with_vm=True, expires=HOUR, **more):
    """An observation of one task whose last event came `ago`, and of its VM."""
    found = TaskStatus("0", attempt, event, None if event == "waiting" else NOW - ago)
    record = JobRecord(
        "j",
        JobSpec("j", RunSpec(("true",))),
        "p",
        NOW - 3 * HOUR,
        NOW + HOUR,
        NOW + expires,
        instances=(VM,) if with_vm else (),
        launched=True,
    )
    instances = (VM,) if with_vm and not found.is_final else ()
    return Observation(record, [found], instances, {VM.id: state}, **more)


LONG_GONE = {VM.id: NOW - LOST_AFTER}
NO_VM = frozenset({("0", 2)})
ANNOUNCED = {"attempt": 2, "with_vm": False, "without_vm": NO_VM}
CASES = {
    "a VM that runs": (seen(), {}, "started", ""),
    "a VM that is seen gone for the first time": (seen(state=GONE), {}, "started", ""),
    "one that was gone a moment ago, too": (seen(state=GONE), {VM.id: NOW - LOST_AFTER + SECOND}, "started", ""),
    "one that has been gone for long enough": (seen(state=GONE), LONG_GONE, "lost", "it ended"),
    "one that came back": (seen(), LONG_GONE, "started", ""),
    "a final event, whatever the VM does": (seen("failed", state=GONE), LONG_GONE, "failed", ""),
    "a young VM that isn't listed yet": (seen(state=UNLISTED, ago=SECOND), LONG_GONE, "started", ""),
    "an old VM that isn't listed": (seen(state=UNLISTED, ago=LISTED_AFTER), LONG_GONE, "lost", "none"),
    "a grant that is about to be over": (seen(expires=SECOND - LOST_AFTER), {}, "started", ""),
    "a grant that is over": (seen(expires=-LOST_AFTER), {}, "lost", "its grant has expired"),
    "a grant that is over, a VM gone": (
        seen(state=GONE, expires=-LOST_AFTER),
        LONG_GONE,
        "lost",
        "it ended",
    ),
    "a task that nobody here started": (seen("booted", with_vm=False), {}, "booted", ""),
    "one that waits": (seen("waiting", attempt=0, with_vm=False), {}, "waiting", ""),
    "a retry that was just announced": (seen("launched", ago=SECOND, **ANNOUNCED), {}, "launched", ""),
    "a retry that never had a VM": (
        seen("launched", ago=LOST_AFTER, **ANNOUNCED),
        {},
        "lost",
        "it was announced, and no VM was started for it",
    ),
    "a retry without a VM on record that works": (seen("started", **ANNOUNCED), {}, "started", ""),
    "a retry that is younger than the record's expiry": (
        seen("launched", attempt=2, with_vm=False, ago=SECOND, expires=-HOUR),
        {},
        "launched",
        "",
    ),
}


@pytest.mark.parametrize(("observed", "gone", "event", "reason"), CASES.values(), ids=CASES)
def test_what_is_lost(observed, gone, event, reason):
    """Only what has had no VM, or no grant, for some time and will post nothing."""
    (found,) = decide(observed, NOW, gone).statuses
    assert (found.event, found.reason) == (event, reason)
    assert found.unstarted == (reason.startswith("it was announced"))


def test_what_is_remembered():
    """When a VM was first seen gone, until it is seen again; when an attempt without one was announced."""
    assert decide(seen(state=GONE), NOW, {}).gone == {VM.id: NOW}
    assert decide(seen(state=GONE), NOW, {VM.id: NOW - SECOND}).gone == {VM.id: NOW - SECOND}
    assert decide(seen(), NOW, LONG_GONE).gone == {}
    assert decide(seen("launched", ago=SECOND, **ANNOUNCED), NOW, {}).gone == {"0/2": NOW - SECOND}


def test_without_patience_one_look_is_not_enough_but_two_are():
    """`status` doesn't wait for a last event, and still needs to have seen the VM gone before."""
    first = decide(seen(state=GONE), NOW, {}, timedelta())
    assert first.statuses[0].event == "started"
    assert decide(seen(state=GONE), NOW, first.gone, timedelta()).statuses[0].event == "lost"


def test_nothing_that_was_given_is_changed():
    """What the last decision remembered stays as it is: the next one is a value of its own."""
    gone = dict(LONG_GONE)
    decide(seen(), NOW, gone)
    assert gone == LONG_GONE


@pytest.mark.parametrize(
    ("event", "attempt", "unstarted", "again"),
    [
        ("failed", 1, False, True),
        ("interrupted", 2, False, True),
        ("lost", 3, False, False),
        ("lost", 3, True, True),  # it never had a VM: it has used none up
        ("succeeded", 1, False, False),
        ("started", 1, False, False),
    ],
)
def test_what_is_launched_again(event, attempt, unstarted, again):
    """With two retries: what ended badly and is of the first or second attempt."""
    found = [TaskStatus("7", attempt, event, NOW, unstarted=unstarted)]
    assert to_launch_again(found, retries=2) == (["7"] if again else [])
