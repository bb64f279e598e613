"""Retries on EC2: what is cut off, lost, late or without room ends in one VM for each attempt, and is said."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
from collections import deque
from datetime import timedelta

import pytest

from agent.grant import instant
from provisioner import errors
from provisioner.clock import from_seconds
from provisioner.jobs import record as records
from provisioner.jobs import status, watch
from provisioner.jobs.decide import LOST_AFTER
from provisioner.jobs.launch import Launcher
from provisioner.jobs.watch import Watcher
from provisioner.plan.layout import JobKeys
from provisioner.providers.ec2 import requests
from provisioner.providers.ec2.rate import RateLimits
from provisioner.s3.signing import Credentials
from tests.ec2.conftest import instances, tags
from tests.ec2.gateway import Fault

NONE = Fault("InsufficientInstanceCapacity", status=500)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


class Ahead:
    """The time, and how far a test has moved it."""

    def __init__(self, one):
        self.one, self.by, self.slept = one, timedelta(), []

    def __call__(self):
        """The time."""
        return self.one.clock() + self.by

    def sleep(self, seconds):
        """Let it pass at once."""
        self.slept.append(seconds)
        self.by += timedelta(seconds=seconds)


def watcher(one, clock, **more):
    """A watcher whose waiting takes no time."""
    return Watcher(one.store, one.provider, clock, clock.sleep, one.events.append, one.launcher.retry, **more)


def recorded(one, record):
    """The record as the bucket has it."""
    return records.parse(one.store.get(f"p/{record.job}/job.json"), "job.json")


def post(one, record, attempt, event, task="0"):
    """Post an event as the VM of a task would."""
    one.store.put(JobKeys("p", record.job).event(task, attempt, event), b"{}")


def test_a_retry_without_room_is_not_stuck(bench, document, parse, cloud, ec2):
    """An attempt that was announced and found no room is lost after a while, moves no expiry, and is launched later."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    post(one, record, 1, "failed")
    cloud.inject("RunInstances", NONE)
    with pytest.raises(errors.NoCapacity):
        one.launcher.retry(record, ["0"])
    assert recorded(one, record).expires == record.expires.replace(microsecond=0)
    clock = Ahead(one)
    assert [item.event for item in watcher(one, clock).poll(record, {}).statuses] == ["launched"]
    clock.by = LOST_AFTER + timedelta(seconds=5)
    (found,) = watcher(one, clock).poll(record, {}).statuses
    assert (found.attempt, found.event, found.unstarted) == (2, "lost", True)
    assert watch.to_retry(watcher(one, Ahead(one)), record, None) == ["0"]
    again = one.launcher.retry(record, ["0"])
    assert [(item.task, item.attempt) for item in again.instances] == [("0", 1), ("0", 2)]


def retried_and_killed(one, spec, monkeypatch):
    """The record of a job that failed, and whose retry's launcher was killed before it recorded the VM."""
    record = one.launcher.launch(spec)
    post(one, record, 1, "failed")

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Launcher, "_keep", killed)
        with pytest.raises(Killed):
            one.launcher.retry(record, ["0"])
    return record


def test_a_retry_that_was_killed_is_recorded_by_the_next(bench, document, parse, monkeypatch, cloud, ec2):
    """Its VM was started and never recorded: watching finds it by the journal, a retry records it."""
    one = bench(document)
    record = retried_and_killed(one, parse(document), monkeypatch)
    clock = Ahead(one)
    clock.by = timedelta(minutes=6)
    assert [item.event for item in watcher(one, clock).poll(record, {}).statuses] == ["launched"]
    again = one.launcher.recover(record)
    assert again.attempts == {"0": 2}
    assert recorded(one, record).instances == again.instances
    assert len(instances(ec2)) == 2
    assert watch.to_retry(watcher(one, Ahead(one)), again, None, required=False) == []


def test_an_unrecorded_attempt_that_failed_is_followed_by_the_next(bench, document, parse, monkeypatch, ec2):
    """A retry whose launcher was killed before it recorded the VM, which then failed: attempt 3, not 2 once more."""
    one = bench(document)
    record = retried_and_killed(one, parse(document), monkeypatch)
    post(one, record, 2, "failed")
    again = one.launcher.retry(record, ["0"])
    assert [item.attempt for item in again.instances] == [1, 2, 3]
    assert len(instances(ec2)) == 3


def test_waiting_tries_a_retry_without_room_again(bench, document, parse, cloud):
    """The watcher says that there was no room, waits, and launches the attempt when there is; none is used up."""
    document["retries"] = 1
    one = bench(document)
    record = one.launcher.launch(parse(document))
    post(one, record, 1, "failed")
    cloud.inject("RunInstances", NONE, NONE)
    clock = Ahead(one)
    over = []

    def sleep(seconds):
        clock.sleep(seconds)
        if recorded(one, record).attempts == {"0": 2}:
            post(one, record, 2, "succeeded")

    following = dataclasses.replace(
        watcher(one, clock), sleep=sleep, finished=lambda _, task, attempt: over.append((task, attempt))
    )
    (found,) = following.follow(record, launched=True)
    assert (found.attempt, found.event) == (2, "succeeded")
    delays = [event for event in one.events if event.name == "delayed"]
    assert [event.data["seconds"] for event in delays] == [30, 60]
    assert "InsufficientInstanceCapacity" in delays[0].text
    assert over == [("0", 1), ("0", 2)]  # never attempt 2 as one that is over and may be revoked, before it had a VM


def test_one_look_sees_a_lost_vm(bench, document, parse, ec2):
    """`status` and `retry` each look once: a VM that is gone is lost, with EC2's reason, long before its expiry."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    ec2.terminate_instances(InstanceIds=[item.id for item in record.instances])
    clock = Ahead(one)
    (row,) = status.describe(one.store, record, watcher(one, clock).settle(record, timedelta(0)))
    assert row.event == "lost"
    assert "User initiated" in row.details["reason"]
    assert "User initiated" in status.table([row])
    assert sum(clock.slept) == 0
    assert watch.to_retry(watcher(one, clock), record, None) == ["0"]
    assert sum(clock.slept) >= LOST_AFTER.total_seconds()


def test_one_look_lets_the_last_event_arrive(bench, document, parse, ec2):
    """A VM that has just ended and posted its last event meanwhile is not lost."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    ec2.terminate_instances(InstanceIds=[item.id for item in record.instances])
    clock = Ahead(one)

    def sleep(seconds):
        clock.sleep(seconds)
        post(one, record, 1, "succeeded")

    with pytest.raises(errors.BadInput, match="nothing to retry"):
        watch.to_retry(dataclasses.replace(watcher(one, clock), sleep=sleep), record, None)


def test_a_spot_interruption_reaches_the_watcher(bench, document, parse, ec2):
    """A VM whose spot capacity was taken without a word of the agent's: the event says so."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    ec2.terminate_instances(InstanceIds=[item.id for item in record.instances])
    described = one.plain._describe

    def interrupted(wanted):
        taken = {"Code": "Server.SpotInstanceTermination", "Message": "Server.SpotInstanceTermination: taken"}
        return [{**found, "StateReason": taken} for found in described(wanted)]

    one.plain._describe = interrupted
    watcher(one, Ahead(one)).follow(record, launched=True)
    (event,) = [event for event in one.events if event.name == "task"]
    assert event.data["status"] == "lost"
    assert event.data["reason"] == "interrupted: EC2 took the spot capacity back"
    assert event.text == "task 0 lost: interrupted: EC2 took the spot capacity back"


def slow(one, hours):
    """A launcher to which each order takes so long."""
    clock = Ahead(one)
    launch = one.plain.launch

    def late(order):
        clock.by += timedelta(hours=hours)
        return launch(order)

    one.plain.launch = late
    one.plain.concurrency = 1
    return dataclasses.replace(one.launcher, clock=clock)


def test_the_last_of_a_long_launch_has_its_time_too(bench, document, parse, ec2):
    """Each VM's deadline and expiry count from its own order, and the record has the latest."""
    document.update(array=3, isolation="task")
    one = bench(document)
    record = slow(one, 1).launch(parse(document))
    ends = sorted(from_seconds(instant(tags(found)[requests.EXPIRES])) for found in instances(ec2))
    assert ends[1] - ends[0] >= timedelta(hours=1)
    assert ends[2] - ends[1] >= timedelta(hours=1)
    assert recorded(one, record).expires == ends[2]
    assert record.deadline - record.created >= timedelta(hours=2)


def test_a_launch_that_outlasts_the_signers_session_ends(bench, document, parse, ec2):
    """A VM that would live longer than the credentials that sign for it is not ordered; what was started is said."""
    document.update(array=3, isolation="task")
    one = bench(document)
    launcher = slow(one, 1)
    ends = one.clock() + timedelta(hours=1.5)
    own = Credentials(one.store.credentials.access_key, one.store.credentials.secret_key, None, ends)
    launcher = dataclasses.replace(launcher, sessions=dataclasses.replace(launcher.sessions, own=own))
    with pytest.raises(errors.Incomplete, match=r"started 2 of 3 tasks, then: .*"):
        launcher.launch(parse(document))
    assert len(instances(ec2)) == 2


def test_an_attempt_that_was_recorded_is_not_ordered_again(bench, document, parse, cloud, ec2):
    """A token was spent, so a task was launched at attempt 2; when the launch goes on, it is not at attempt 1 again."""
    document.update(array=2, isolation="task")
    one = bench(document)
    one.plain.concurrency = 1
    cloud.faults["RunInstances"] = deque(
        [Fault("IdempotentParameterMismatch"), None, Fault("UnauthorizedOperation", status=403)]
    )
    with pytest.raises(errors.Incomplete):
        one.launcher.launch(parse(document))
    record = bench(document).launcher.launch(parse(document))
    assert sorted((item.task, item.attempt) for item in record.instances) == [("0", 2), ("1", 1)]
    assert len(instances(ec2)) == 2


@pytest.mark.e2e
def test_a_retry_goes_elsewhere_than_a_launch_that_was_cut_off(bench, document, parse, cloud):
    """A VM that was found by the journal has its choice on record, so that its retry begins with another."""
    document["vm"].update(zones=["eu-west-1a", "eu-west-1b"], market="spot")
    cloud.inject("RunInstances", Fault(lost=True), *[Fault("InternalError", status=500)] * 4)
    cloud.inject("DescribeInstances", *[Fault("InternalError", status=500)] * 10)
    with pytest.raises(errors.Unreachable, match="started none"):
        bench(document).launcher.launch(parse(document))
    cloud.faults.clear()
    one = bench(document)
    record = one.launcher.launch(parse(document))
    assert [item.place for item in record.instances] == ["t3.small in eu-west-1a, spot"]
    post(one, record, 1, "interrupted")
    assert one.launcher.retry(record, ["0"]).instances[-1].place == "t3.small in eu-west-1b, spot"


@pytest.mark.e2e
def test_an_interrupted_launch_goes_on(bench, document, parse, cloud, ec2):
    """Ctrl-C while orders wait for their turn ends them at once and untold; the next launch makes what is missing."""
    document.update(array=12, isolation="task")
    one = bench(document)
    one.plain._api.limits = RateLimits(bounded=True)
    send, begun = one.plain.launch, itertools.count(1)

    def counted(order):
        if next(begun) == 12:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return send(order)

    one.plain.launch = counted
    with pytest.raises(KeyboardInterrupt):
        one.launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] < 12
    record = bench(document).launcher.launch(parse(document))
    assert record.launched
    assert sorted(tags(found)[requests.TASK] for found in instances(ec2)) == sorted(map(str, range(12)))
    assert {item.id for item in record.instances} == {found["InstanceId"] for found in instances(ec2)}
    assert not [entry.key for entry in one.store.list("p/") if "/launch/" in entry.key]
