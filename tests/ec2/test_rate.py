"""The client's own limits, by a clock that stands still until told."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from provisioner.errors import Stopped, Throttled
from provisioner.providers.base import Order
from provisioner.providers.ec2 import Ec2Provider, rate
from provisioner.providers.ec2.rate import RateLimits, TokenBucket
from provisioner.retry import Retry
from tests.ec2.conftest import Time
from tests.ec2.gateway import Fault


def bucket(clock, capacity=5.0, refill=2.0, **more):
    """A bucket on that clock."""
    return TokenBucket(capacity, refill, clock=clock, wait=clock.wait, **more)


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
        full.slow_down()
    assert full.refill == pytest.approx(2 / 16)
    for _ in range(100):
        full.speed_up()
    assert full.refill == 2


def test_an_unknown_cloud_is_not_held_back_until_it_throttles():
    """With an endpoint of its own nothing waits; after the first throttled answer everything does."""
    clock = Time()
    free = bucket(clock, bounded=False)
    for _ in range(1000):
        free.take()
    assert clock.now == 0
    free.slow_down()
    for _ in range(10):
        free.take()
    assert clock.now == pytest.approx(10)


def test_whoever_waits_gives_up_when_told():
    """An interrupted launch doesn't sit out EC2's limits, and nobody tries again for it."""
    limits = RateLimits(bounded=True)
    limits.stop()
    full = limits.bucket("run_instances")
    for _ in range(5):
        full.take()
    with pytest.raises(Stopped, match="before the request was sent"):
        Retry(sleep=pytest.fail)(full.take)


def test_calls_share_the_buckets_that_ec2_has():
    """Reading calls share one bucket, mutating ones another, RunInstances has its own."""
    limits = RateLimits(bounded=True)
    assert limits.bucket("describe_instances") is limits.bucket("get_console_output")
    assert limits.bucket("create_fleet") is limits.bucket("create_launch_template")
    assert limits.bucket("run_instances") is not limits.bucket("create_fleet")


def launching(options, monkeypatch):
    """A clock, limits whose bucket of VMs holds four, and what launches under them."""
    monkeypatch.setattr(rate, "RUN_INSTANCES", (4.0, 2.0))
    clock = Time()
    limits = RateLimits(bounded=True, clock=clock, wait=clock.wait)
    using = Ec2Provider(options, limits)
    (choice,) = using.choices(options)
    ends = datetime.now(timezone.utc) + timedelta(hours=1)

    def launch(token, tasks):
        return using.launch(Order("rate", tasks, 1, token, ends, b"#cloud-config\n", choice.options, fresh=True))

    return clock, limits, launch


def test_a_launch_takes_its_turn(options, monkeypatch):
    """RunInstances takes one from its own bucket, and its VMs from that of VMs."""
    clock, limits, launch = launching(options, monkeypatch)
    assert len(launch("a", ("0", "1", "2"))) == 3
    assert clock.now == 0
    assert limits.bucket("run_instances")._level == 4
    assert len(launch("b", ("3", "4", "5"))) == 3
    assert clock.now == pytest.approx(1)  # two more than the bucket held, at two a second


def test_a_throttled_launch_slows_down(options, cloud, monkeypatch):
    """After RequestLimitExceeded the next RunInstances waits, at half of the rate; reading calls go on as before."""
    clock, limits, launch = launching(options, monkeypatch)
    cloud.inject("RunInstances", Fault("RequestLimitExceeded", status=503))
    with pytest.raises(Throttled):
        launch("c", ("6",))
    assert limits.bucket("run_instances").refill == pytest.approx(1)
    assert limits.bucket("instances").refill == pytest.approx(1)
    assert limits.bucket("describe_instances").refill == rate.READING[1]
    assert clock.now == 0
    assert len(launch("c", ("6",))) == 1
    assert clock.now >= 1
