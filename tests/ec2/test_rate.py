"""The client's own limits, by a clock that stands still until told."""

from __future__ import annotations

import pytest

from provisioner.errors import Stopped
from provisioner.providers.ec2.rate import Bucket, Limits
from provisioner.retry import retried
from tests.ec2.conftest import Time


def bucket(clock, capacity=5.0, refill=2.0, **more):
    """A bucket on that clock."""
    return Bucket(capacity, refill, clock=clock, wait=clock.wait, **more)


def test_a_burst_passes_and_then_the_rate_holds():
    """Five requests at once, then two a second: EC2's own RunInstances bucket is never overdrawn."""
    clock = Time()
    full = bucket(clock)
    for _ in range(5):
        full.take()
    assert clock.now == 0
    for _ in range(10):
        full.take()
    assert clock.now == pytest.approx(5)


def test_more_than_the_capacity_is_owed():
    """A group larger than what is left waits for exactly its size."""
    clock = Time()
    full = bucket(clock, 1000, 2)
    for _ in range(21):
        full.take(50)
    assert clock.now == pytest.approx(25)


def test_throttling_halves_the_rate_and_it_grows_back():
    """Each throttled answer halves the rate down to a sixteenth; twenty good ones restore half of the nominal rate."""
    clock = Time()
    full = bucket(clock)
    for _ in range(9):
        full.slower()
    assert full.refill == pytest.approx(2 / 16)
    for _ in range(100):
        full.faster()
    assert full.refill == 2


def test_an_unknown_cloud_is_not_held_back_until_it_throttles():
    """With an endpoint of its own nothing waits; after the first throttled answer everything does."""
    clock = Time()
    free = bucket(clock, bounded=False)
    for _ in range(1000):
        free.take()
    assert clock.now == 0
    free.slower()
    for _ in range(10):
        free.take()
    assert clock.now == pytest.approx(10)


def test_whoever_waits_gives_up_when_told():
    """An interrupted launch doesn't sit out EC2's limits, and nobody tries again for it."""
    limits = Limits(bounded=True)
    limits.stop()
    full = limits.of("run_instances")
    for _ in range(5):
        full.take()
    with pytest.raises(Stopped, match="before the request was sent"):
        retried(full, sleep=pytest.fail).take()


def test_calls_share_the_buckets_that_ec2_has():
    """Reading calls share one bucket, mutating ones another, RunInstances has its own."""
    limits = Limits(bounded=True)
    assert limits.of("describe_instances") is limits.of("get_console_output")
    assert limits.of("create_fleet") is limits.of("create_launch_template")
    assert limits.of("run_instances") is not limits.of("create_fleet")
