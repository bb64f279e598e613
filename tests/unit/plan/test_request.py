"""What follows from a request: when policies end, and which tasks share one."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from provisioner.errors import BadInput
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.plan.plan import UPLOAD_MARGIN
from provisioner.plan.request import GROUP_FROM, GROUP_SIZE, LaunchRequest, make_plan
from provisioner.s3.signing import MAX_LIFETIME, Bucket
from provisioner.s3url import StoreSpec

NOW = datetime(2026, 11, 23, 20, tzinfo=timezone.utc)
SPEC = JobSpec("hello", RunSpec(("true",), timeout=3600))
HOUR = timedelta(hours=1)


def request(spec=SPEC, **more):
    """Return the request of a launch."""
    bucket = Bucket("b", "eu-central-1", "https://b.example/")
    return LaunchRequest(spec, "hello-1", bucket, "p", "ec2", 16_384, NOW, **more)


def test_policies_end_when_the_first_of_all_ends():
    """What the job says, else a margin after its deadline; the session; SigV4's seven days."""
    plain = request()
    assert plain.deadline - NOW == timedelta(seconds=SPEC.deadline)
    assert plain.expires - plain.deadline == UPLOAD_MARGIN
    assert request(replace(SPEC, expires=60)).expires - NOW == timedelta(minutes=1)
    assert request(replace(SPEC, renew=7200)).expires - NOW == 2 * HOUR
    assert request(credentials_expire=NOW + HOUR).expires - NOW == HOUR
    assert request(replace(SPEC, expires=30 * 86_400)).expires - NOW == MAX_LIFETIME


@pytest.mark.parametrize(
    ("tasks", "more", "groups", "size"),
    [
        (1, {}, True, 1),
        (GROUP_FROM, {}, True, GROUP_SIZE),
        (GROUP_FROM, {}, False, 1),
        (GROUP_FROM, {"isolation": "task"}, True, 1),
        (2, {"isolation": "group"}, True, GROUP_SIZE),
        (GROUP_FROM, {"renew": 3600}, True, 1),
        (GROUP_FROM, {"store": StoreSpec("b", method="put")}, True, 1),
    ],
)
def test_many_tasks_share_a_user_data_where_they_can(tasks, more, groups, size):
    """From 51 on, or when the job says so; never where each has a grant of its own."""
    asked = request(replace(SPEC, array=tuple(range(tasks)), **more), groups=groups)
    assert asked.group_size == make_plan(asked).group_size == size


def test_a_group_without_such_a_provider_is_refused():
    """With what to do instead."""
    with pytest.raises(BadInput, match="isolation: group"):
        make_plan(request(replace(SPEC, isolation="group")))
