"""Errors at each call: the right class, the right next step, and no VM that nobody knows of."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from provisioner import errors
from provisioner.policy import Credentials
from provisioner.providers.ec2 import requests
from tests.ec2.conftest import instances, tags
from tests.ec2.gateway import Fault

# Code, HTTP status, and the class it must become: one of each kind, as AWS sends them.
KINDS = [
    ("InsufficientInstanceCapacity", 500, errors.NoCapacity),
    ("Unsupported", 400, errors.NoCapacity),
    ("VcpuLimitExceeded", 400, errors.OverQuota),
    ("MaxSpotInstanceCountExceeded", 400, errors.OverQuota),
    ("RequestLimitExceeded", 503, errors.Throttled),
    ("InternalError", 500, errors.Unreachable),
    ("Unavailable", 503, errors.Unreachable),
    ("UnauthorizedOperation", 403, errors.Refused),
    ("AuthFailure", 401, errors.NoCredentials),
    ("ExpiredToken", 400, errors.Expiry),
    ("RequestExpired", 400, errors.Expiry),
    ("InvalidAMIID.NotFound", 400, errors.BadInput),
    ("InvalidParameterValue", 400, errors.BadInput),
    ("IdempotentParameterMismatch", 400, errors.Conflict),
    ("IdempotentInstanceTerminated", 400, errors.Conflict),
]
SECRET = "Encoded authorization failure message: " + "x" * 600


def cause(caught):
    """The error that a launch was ended by."""
    return caught.value.__cause__


@pytest.mark.parametrize(("code", "status", "kind"), KINDS)
def test_each_error_of_run_instances_has_its_class(bench, document, parse, cloud, ec2, code, status, kind):
    """An error that stays ends the launch with its own class, a sentence, a hint, and no VM."""
    cloud.inject("RunInstances", *[Fault(code, f"no. {SECRET}", status)] * 5)
    with pytest.raises(errors.Incomplete) as caught:
        bench(document).launcher.launch(parse(document))
    assert isinstance(cause(caught), kind)
    assert code in str(caught.value)
    assert "xxxxx" not in str(caught.value)
    assert caught.value.hint
    assert instances(ec2) == []


def test_the_same_command_goes_on_after_an_error(bench, document, parse, cloud, ec2):
    """What failed is launched exactly once by the next launch, under the same job."""
    cloud.inject("RunInstances", Fault("VcpuLimitExceeded"))
    with pytest.raises(errors.Incomplete) as caught:
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
    with pytest.raises(errors.Incomplete) as caught:
        bench(document).launcher.launch(parse(document))
    pairs = zip(["t3.micro, spot", "t3.small, spot", "t3.micro, on-demand", "t3.small, on-demand"], codes, strict=True)
    for choice, code in pairs:
        assert f"{choice}: EC2 answered RunInstances with {code}" in str(caught.value)


def test_a_choice_that_can_not_help_is_not_tried(bench, document, parse, cloud):
    """A missing permission ends the launch at the first call."""
    document["vm"].update(type=["t3.micro", "t3.small"])
    cloud.inject("RunInstances", Fault("UnauthorizedOperation", status=403))
    with pytest.raises(errors.Incomplete, match="UnauthorizedOperation"):
        bench(document).launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] == 1


def test_a_dead_vm_of_a_cut_off_launch_takes_its_next_attempt(bench, document, parse, cloud, ec2):
    """The answer was lost for good and the VM died without a sign of life: the next attempt, with its own token."""
    cloud.inject("RunInstances", Fault(lost=True), *[Fault("InternalError", status=500)] * 4)
    cloud.inject("DescribeInstances", *[Fault("InternalError", status=500)] * 10)
    with pytest.raises(errors.Incomplete):
        bench(document).launcher.launch(parse(document))
    (dead,) = instances(ec2)
    ec2.terminate_instances(InstanceIds=[dead["InstanceId"]])
    cloud.faults.clear()
    record = bench(document).launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 1), ("0", 2)]
    assert record.attempts == {"0": 2}
    assert [tags(found)[requests.ATTEMPT] for found in instances(ec2) if found["State"]["Name"] == "running"] == ["2"]


def test_a_token_spent_on_another_request_leads_to_the_next_attempt(bench, document, parse, cloud, ec2):
    """IdempotentParameterMismatch with no VM of that order: attempt 2, never a second VM for attempt 1."""
    cloud.inject("RunInstances", Fault("IdempotentParameterMismatch"))
    record = bench(document).launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 2)]
    assert [tags(found)[requests.ATTEMPT] for found in instances(ec2)] == ["2"]


@pytest.mark.parametrize("action", ["DescribeInstances", "TerminateInstances", "GetConsoleOutput"])
def test_errors_of_the_other_calls_have_their_classes(bench, document, parse, cloud, action):
    """Looking and ending raise what the operator can act on."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    do = {
        "DescribeInstances": lambda: one.plain.state(record.instances),
        "TerminateInstances": lambda: one.plain.terminate(record.instances),
        "GetConsoleOutput": lambda: one.plain.console(record.instances[0]),
    }[action]
    for code, status, kind in KINDS:
        cloud.inject(action, Fault(code, status=status))
        with pytest.raises(kind):
            do()


def test_credentials_that_expire_first_are_refused_before_any_call(bench, document, parse, cloud):
    """A session that ends before the deadline: exit code 4, and EC2 hears nothing."""
    one = bench(document)
    soon = datetime.now(timezone.utc) + timedelta(minutes=2)
    short = Credentials("AKID", "secret", "token", soon)
    launcher = dataclasses.replace(one.launcher, signer=dataclasses.replace(one.launcher.signer, own=short))
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
