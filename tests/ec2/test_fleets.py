"""EC2 Fleet with client tokens honoured at each of its calls: what is spent, what is stale, and what is left behind."""

from __future__ import annotations

import base64
import dataclasses
from datetime import timedelta

import pytest

from provisioner import errors
from provisioner.providers.ec2 import requests
from tests.ec2.conftest import instances, tags
from tests.ec2.gateway import EMPTY_FLEET, Fault


@pytest.fixture
def document(document):
    """A job for a fleet."""
    document["vm"]["fleet"] = True
    return document


def empty(code="InsufficientInstanceCapacity"):
    """CreateFleet answers 200 with an error and no instance."""
    return Fault(body=EMPTY_FLEET.format(code=code))


def templates(ec2):
    """The launch templates there are."""
    return ec2.describe_launch_templates()["LaunchTemplates"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", errors.NoCapacity),
        ("VcpuLimitExceeded", errors.NoCapacity),
        ("UnauthorizedOperation", errors.Refused),
        ("InvalidParameterValue", errors.BadInput),
    ],
)
def test_an_empty_fleet_is_the_error_that_it_names(bench, document, parse, cloud, ec2, code, kind):
    """A fleet answered with 200 and errors ends as these: their class, code and sentence; no template stays."""
    cloud.inject("CreateFleet", empty(code))
    with pytest.raises(kind, match=f"CreateFleet with {code}: none left"):
        bench(document).launcher.launch(parse(document))
    assert instances(ec2) == []
    assert templates(ec2) == []


def test_a_fleet_that_found_no_room_is_asked_anew(bench, document, parse, cloud, ec2):
    """Its token is spent; launching again makes another fleet, not the empty one once more."""
    cloud.inject("CreateFleet", empty())
    with pytest.raises(errors.NoCapacity):
        bench(document).launcher.launch(parse(document))
    one = bench(document)
    later = dataclasses.replace(one.launcher, clock=lambda: one.clock() + timedelta(seconds=2))
    record = later.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 1)]
    assert [found["InstanceId"] for found in instances(ec2)] == [item.id for item in record.instances]
    assert templates(ec2) == []


def test_what_may_pass_in_an_empty_fleet_takes_another_token(bench, document, parse, cloud, ec2):
    """Sent again as it is, the order would be answered with the same empty fleet: the next attempt is launched."""
    cloud.inject("CreateFleet", empty("InternalError"))
    record = bench(document).launcher.launch(parse(document))
    assert [(item.task, item.attempt) for item in record.instances] == [("0", 2)]
    assert templates(ec2) == []


def test_a_fleet_that_failed_is_tried_again_with_its_template(bench, document, parse, cloud, ec2):
    """The template of the first try is deleted, and the second has one of its own, tokens or not."""
    cloud.inject("CreateFleet", Fault("InternalError", status=500))
    record = bench(document).launcher.launch(parse(document))
    assert len(record.instances) == len(instances(ec2)) == 1
    assert cloud.calls["CreateLaunchTemplate"] == 2
    assert templates(ec2) == []


def test_a_stale_template_is_not_used(bench, document, parse, cloud, ec2, image):
    """A template of that name, left by a launch that was cut off, is replaced: its user-data was signed earlier."""
    one = bench(document)
    send = one.plain._run_fleet

    def stale(order):
        ec2.create_launch_template(
            LaunchTemplateName=requests.template_name(order),
            LaunchTemplateData={"ImageId": image, "UserData": base64.b64encode(b"old").decode()},
        )
        return send(order)

    one.plain._run_fleet = stale
    one.launcher.launch(parse(document))
    (found,) = instances(ec2)
    data = ec2.describe_instance_attribute(InstanceId=found["InstanceId"], Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(data) != b"old"
    assert tags(found)[requests.TASK] == "0"
    assert templates(ec2) == []


def test_a_template_of_a_launch_that_was_cut_off_goes_when_its_vm_is_found(bench, document, parse, cloud, ec2):
    """Killed between CreateFleet and the template's deletion: the next launch finds the VM and deletes the template."""

    class Killed(BaseException):
        pass

    def killed(_):
        raise Killed

    one = bench(document)
    one.plain._delete_template = killed
    with pytest.raises(Killed):
        one.launcher.launch(parse(document))
    assert len(templates(ec2)) == 1
    record = bench(document).launcher.launch(parse(document))
    assert [found["InstanceId"] for found in instances(ec2)] == [item.id for item in record.instances]
    assert templates(ec2) == []
