"""Errors at each call: the right class, the right next step, and no VM that nobody knows of."""

from __future__ import annotations

import dataclasses
from collections import deque
from datetime import datetime, timedelta, timezone

import pytest

from provisioner import errors
from provisioner.jobs import record as records
from provisioner.plan.layout import JobKeys
from provisioner.providers.ec2 import requests
from provisioner.s3.probe import FormClient
from provisioner.s3.signing import Credentials
from tests.ec2.conftest import instances, tags
from tests.ec2.gateway import Fault

# One of each kind, and the exit code that a launch ends with when it is all there is.
EXITS = [
    ("InsufficientInstanceCapacity", 5),
    ("VcpuLimitExceeded", 5),
    ("UnauthorizedOperation", 5),
    ("IdempotentParameterMismatch", 5),
    ("RequestLimitExceeded", 7),
    ("InternalError", 7),
    ("AuthFailure", 3),
    ("ExpiredToken", 4),
    ("InvalidParameterValue", 2),
]
SECRET = "Encoded authorization failure message: " + "x" * 600


@pytest.mark.parametrize(("code", "exit_code"), EXITS)
def test_a_launch_that_starts_nothing_exits_as_its_error(bench, document, parse, cloud, ec2, code, exit_code):
    """An error that stays before any VM has started has its own exit code, a sentence, a hint, and no VM."""
    cloud.inject("RunInstances", *[Fault(code, f"no. {SECRET}")] * 5)
    with pytest.raises(errors.FreepostError) as caught:
        bench(document).launcher.launch(parse(document))
    assert caught.value.exit_code == exit_code
    assert "started none of 1 tasks" in str(caught.value)
    assert code in str(caught.value)
    assert "xxxxx" not in str(caught.value)
    assert caught.value.hint
    assert instances(ec2) == []


@pytest.mark.e2e
def test_one_announcement_that_fails_ends_no_launch(bench, document, parse, monkeypatch):
    """Each task is announced by a form; a store that has no time for one of them is asked again, for each."""
    document.update(array=4, isolation="group")
    seen, post = set(), FormClient.post

    def busy(client, target, name, data):
        if target.prefix not in seen:
            seen.add(target.prefix)
            raise errors.Unreachable("the store answered SlowDown", hint="try again later")
        post(client, target, name, data)

    monkeypatch.setattr(FormClient, "post", busy)
    assert len(bench(document).launcher.launch(parse(document)).instances) == 4
    assert len(seen) == 4


def test_a_launch_that_starts_some_is_incomplete(bench, document, parse, cloud, ec2):
    """After a part of the tasks was started an error ends the launch with exit code 6, and that part is recorded."""
    document.update(array=2, isolation="task")
    one = bench(document)
    one.plain.concurrency = 1
    cloud.faults["RunInstances"] = deque([None, Fault("VcpuLimitExceeded")])
    with pytest.raises(errors.Incomplete, match=r"started 1 of 2 tasks, then: .*VcpuLimitExceeded"):
        one.launcher.launch(parse(document))
    assert len(instances(ec2)) == 1


def test_the_same_command_goes_on_after_an_error(bench, document, parse, cloud, ec2):
    """What failed is launched exactly once by the next launch, under the same job."""
    cloud.inject("RunInstances", Fault("VcpuLimitExceeded"))
    with pytest.raises(errors.OverQuota) as caught:
        bench(document).launcher.launch(parse(document))
    record = bench(document).launcher.launch(parse(document))
    assert str(caught.value).startswith(record.job)
    assert [found["InstanceId"] for found in instances(ec2)] == [item.id for item in record.instances]
    assert len(record.instances) == 1


@pytest.mark.parametrize(("code", "status"), [("RequestLimitExceeded", 503), ("InternalError", 500)])
@pytest.mark.parametrize("action", ["RunInstances", "CreateTags", "DescribeImages"])
def test_what_passes_is_tried_again(bench, document, parse, cloud, ec2, action, code, status):
    """One throttled or failed call at any point is retried, and no VM is made twice."""
    document.update(array=2, isolation="group")
    cloud.inject(action, Fault(code, status=status))
    record = bench(document).launcher.launch(parse(document))
    assert record.launched
    assert sorted(tags(found)[requests.TASK] for found in instances(ec2)) == ["0", "1"]


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("action", ["RunInstances", "CreateTags"])
def test_a_lost_answer_starts_nothing_twice(bench, document, parse, cloud, ec2, action, tokens):
    """EC2 did it and the answer was lost: the VMs are found by token or by tag, also where tokens aren't honoured."""
    cloud.tokens = tokens
    document.update(array=3, isolation="group")
    cloud.inject(action, Fault(lost=True))
    record = bench(document).launcher.launch(parse(document))
    assert sorted(tags(found)[requests.TASK] for found in instances(ec2)) == ["0", "1", "2"]
    assert len(record.instances) == 3


def test_tags_that_may_not_be_set_later_lose_no_vm(bench, document, parse, cloud, ec2, caplog):
    """Where a policy allows tags at launch alone, the VMs keep their group's, and the operator is told."""
    document.update(array=2, isolation="group")
    cloud.inject("CreateTags", *[Fault("UnauthorizedOperation", status=403)] * 2)
    record = bench(document).launcher.launch(parse(document))
    assert {item.task for item in record.instances} == {"0", "1"}
    assert {tags(found)[requests.TASKS] for found in instances(ec2)} == {"0-1"}
    assert "not its task's own" in caplog.text


def test_the_next_choice_is_tried_where_it_helps(bench, document, parse, cloud):
    """No room for the first type and zone leads to the next, and later orders don't ask again."""
    document.update(array=4, isolation="task")
    document["vm"].update(
        type=["t3.micro", "t3.small"], zones=["eu-west-1a", "eu-west-1b"], market=["spot", "on-demand"]
    )
    one = bench(document)
    one.plain.concurrency = 1
    cloud.inject(
        "RunInstances", Fault("InsufficientInstanceCapacity", status=500), Fault("MaxSpotInstanceCountExceeded")
    )
    one.launcher.launch(parse(document))
    asked = [
        (form["InstanceType"], form["Placement.AvailabilityZone"], form.get("InstanceMarketOptions.MarketType"))
        for form in cloud.bodies
        if form["Action"] == "RunInstances"
    ]
    assert asked[:3] == [
        ("t3.micro", "eu-west-1a", "spot"),
        ("t3.micro", "eu-west-1b", "spot"),
        ("t3.small", "eu-west-1a", "spot"),
    ]
    assert asked[3:] == [("t3.small", "eu-west-1a", "spot")] * 3
    assert len({form["ClientToken"] for form in cloud.bodies if form["Action"] == "RunInstances"}) == 6


def test_when_no_choice_is_left_each_is_named(bench, document, parse, cloud):
    """The message lists every choice with the error that it gave."""
    document["vm"].update(type=["t3.micro", "t3.small"], market=["spot", "on-demand"])
    codes = ["InsufficientInstanceCapacity", "SpotMaxPriceTooLow", "VcpuLimitExceeded", "InstanceLimitExceeded"]
    cloud.inject("RunInstances", *[Fault(code) for code in codes])
    with pytest.raises(errors.NoCapacity) as caught:
        bench(document).launcher.launch(parse(document))
    pairs = zip(["t3.micro, spot", "t3.small, spot", "t3.micro, on-demand", "t3.small, on-demand"], codes, strict=True)
    for choice, code in pairs:
        assert f"{choice}: EC2 answered RunInstances with {code}" in str(caught.value)


def test_a_choice_that_can_not_help_is_not_tried(bench, document, parse, cloud):
    """A missing permission ends the launch at the first call."""
    document["vm"].update(type=["t3.micro", "t3.small"])
    cloud.inject("RunInstances", Fault("UnauthorizedOperation", status=403))
    with pytest.raises(errors.Refused, match="UnauthorizedOperation"):
        bench(document).launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] == 1


def test_a_dead_vm_of_a_cut_off_launch_takes_its_next_attempt(bench, document, parse, cloud, ec2):
    """The answer was lost for good and the VM died without a sign of life: the next attempt, with its own token."""
    cloud.inject("RunInstances", Fault(lost=True), *[Fault("InternalError", status=500)] * 4)
    cloud.inject("DescribeInstances", *[Fault("InternalError", status=500)] * 10)
    with pytest.raises(errors.Unreachable, match="started none"):
        bench(document).launcher.launch(parse(document))
    (dead,) = instances(ec2)
    ec2.terminate_instances(InstanceIds=[dead["InstanceId"]])
    cloud.faults.clear()
    record = bench(document).launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 1), ("0", 2)]
    assert record.attempts == {"0": 2}
    assert [tags(found)[requests.ATTEMPT] for found in instances(ec2) if found["State"]["Name"] == "running"] == ["2"]


@pytest.mark.e2e
def test_a_vm_that_is_not_known_yet_is_not_dead(bench, document, parse, cloud, ec2):
    """An order of a launch that was cut off is sent again, and EC2 doesn't list its VM yet: no other attempt."""
    cloud.inject("RunInstances", *[Fault("InternalError", status=500)] * 5)
    with pytest.raises(errors.Unreachable, match="started none"):
        bench(document).launcher.launch(parse(document))
    one = bench(document)
    described = one.plain._describe

    def late(wanted):
        if "InstanceIds" in wanted:
            raise errors.NotFound(f"The instance ID '{wanted['InstanceIds'][0]}' does not exist")
        return described(wanted)

    one.plain._describe = late
    record = one.launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 1)]
    assert len(instances(ec2)) == 1


def test_a_token_spent_on_another_request_leads_to_the_next_attempt(bench, document, parse, cloud, ec2):
    """IdempotentParameterMismatch with no VM of that order: attempt 2, never a second VM for attempt 1."""
    cloud.inject("RunInstances", Fault("IdempotentParameterMismatch"))
    record = bench(document).launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 2)]
    assert [tags(found)[requests.ATTEMPT] for found in instances(ec2)] == ["2"]


def test_a_session_that_ends_after_the_vms_started_loses_none(bench, document, parse, cloud, ec2, caplog):
    """Tags that can't be set any more are said; the VMs are in the record, by their launch index."""
    document.update(array=2, isolation="group")
    cloud.inject("CreateTags", *[Fault("ExpiredToken")] * 2)
    record = bench(document).launcher.launch(parse(document))
    assert {item.id for item in record.instances} == {found["InstanceId"] for found in instances(ec2)}
    assert "ExpiredToken" in caplog.text


def test_a_vm_that_can_not_be_looked_for_stays_in_the_journal(bench, document, parse, cloud, ec2):
    """The answer was lost and DescribeInstances is forbidden: told so, and found by the next launch."""
    cloud.inject("RunInstances", Fault(lost=True))
    cloud.inject("DescribeInstances", *[Fault("UnauthorizedOperation", status=403)] * 9)
    with pytest.raises(errors.Unreachable, match="can't be looked for") as caught:
        bench(document).launcher.launch(parse(document))
    assert "ec2:DescribeInstances" in caught.value.hint
    cloud.faults.clear()
    cloud.tokens = False
    record = bench(document).launcher.launch(parse(document))
    (found,) = instances(ec2)
    assert [item.id for item in record.instances] == [found["InstanceId"]]


@pytest.mark.parametrize(("event", "zones"), [("interrupted", "ab"), ("failed", "aa"), ("started", "ab")])
def test_a_retry_goes_elsewhere_when_the_vm_was_taken(bench, document, parse, cloud, event, zones):
    """After an interruption or a lost VM the next attempt is ordered in another zone; after a failure in the best."""
    document["vm"].update(zones=["eu-west-1a", "eu-west-1b"], market="spot")
    one = bench(document)
    record = one.launcher.launch(parse(document))
    one.store.put(JobKeys("p", record.job).event("0", 1, event), b"{}")
    again = one.launcher.retry(records.parse(one.store.get(f"p/{record.job}/job.json"), "job.json"), ["0"])
    asked = [form["Placement.AvailabilityZone"] for form in cloud.bodies if form["Action"] == "RunInstances"]
    assert asked == [f"eu-west-1{zone}" for zone in zones]
    assert [item.attempt for item in again.instances] == [1, 2]


def test_credentials_that_expire_first_are_refused_before_any_call(bench, document, parse, cloud):
    """A session that ends before the deadline: exit code 4, and EC2 hears nothing."""
    one = bench(document)
    soon = datetime.now(timezone.utc) + timedelta(minutes=2)
    short = Credentials("AKID", "secret", "token", soon)
    launcher = dataclasses.replace(one.launcher, sessions=dataclasses.replace(one.launcher.sessions, own=short))
    with pytest.raises(errors.Expiry):
        launcher.launch(parse(document))
    assert not cloud.calls
    assert one.store.list("p/") == []


def test_a_fleet_serves_by_a_template_that_goes(bench, document, parse, cloud, ec2):
    """CreateFleet is asked once a task, with every type and zone, and no launch template stays."""
    document.update(array=2)
    document["vm"].update(fleet=True, type=["t3.micro", "t3.small"], zones=["eu-west-1a", "eu-west-1b"])
    record = bench(document).launcher.launch(parse(document))
    assert cloud.calls["CreateFleet"] == 2
    assert cloud.calls["RunInstances"] == 0
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert sorted(tags(found)[requests.TASK] for found in instances(ec2)) == ["0", "1"]
    assert {item.id for item in record.instances} == {found["InstanceId"] for found in instances(ec2)}
    sent = next(form for form in cloud.bodies if form["Action"] == "CreateFleet")
    assert sum(name.endswith(".InstanceType") for name in sent) == 4


@pytest.mark.parametrize("lost", [False, True])
def test_a_fleet_that_fails_leaves_no_template(bench, document, parse, cloud, ec2, lost):
    """The template goes also when CreateFleet fails or its answer is lost, and the VM is found again."""
    document["vm"]["fleet"] = True
    cloud.inject("CreateFleet", Fault("InternalError", status=500, lost=lost))
    bench(document).launcher.launch(parse(document))
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert [tags(found)[requests.TASK] for found in instances(ec2)] == ["0"]


def test_a_fleet_can_not_share_a_policy(bench, document, parse):
    """isolation: group with a fleet is refused with what to do: launch indexes of a fleet tell nothing."""
    document.update(array=2, isolation="group")
    document["vm"]["fleet"] = True
    with pytest.raises(errors.BadInput, match="isolation"):
        bench(document).launcher.plan(parse(document))
