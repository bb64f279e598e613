"""What a job's options become: choices by id, and requests that EC2's own service model takes."""

from __future__ import annotations

import base64
from datetime import datetime, timezone

import botocore.session
import pytest
from botocore.handlers import base64_encode_user_data
from botocore.validate import ParamValidator

from provisioner import errors
from provisioner.providers.base import Instance, Order, Phase
from provisioner.providers.ec2 import requests, resolve
from tests.ec2.conftest import REGION, instances, provider

ENDS = datetime(2026, 12, 1, tzinfo=timezone.utc)
EVERYTHING = {
    "image": "ami-0123456789abcdef0",
    "root_device": "/dev/sda1",
    "disk": 40,
    "key": "mine",
    "instance_profile": "some-profile",
    "security_groups": ["sg-1", "sg-2"],
    "tags": {"team": "a b"},
}


@pytest.fixture(scope="module")
def model():
    """EC2's service model, as botocore ships it."""
    return botocore.session.get_session().get_service_model("ec2")


def order(tasks=("0",), **options):
    """An order with every option set."""
    return Order("job", tuple(tasks), 1, "a" * 64, ENDS, b"#cloud-config\n", {**EVERYTHING, **options})


def faults(model, action, request):
    """What is wrong with a request, or unknown to the service model: as botocore validates it, before it is sent."""
    request = dict(request)
    if action == "RunInstances":
        base64_encode_user_data(request)  # as botocore does before it validates
    return ParamValidator().validate(request, model.operation_model(action).input_shape).generate_report()


@pytest.mark.parametrize("market", ["on-demand", "spot"])
@pytest.mark.parametrize("place", [{}, {"zone": "eu-west-1a"}, {"zone": "eu-west-1a", "subnet": "subnet-1"}])
@pytest.mark.parametrize("tasks", [("0",), tuple(map(str, range(50)))])
def test_run_instances_is_of_the_service_model(model, market, place, tasks):
    """With every option set, and in each place and market, RunInstances is one that EC2 knows."""
    sent = requests.run_instances(order(tasks, type="t3.small", market=market, **place))
    assert faults(model, "RunInstances", sent) == ""
    assert sent["KeyName"] == "mine"
    assert sent["IamInstanceProfile"] == {"Name": "some-profile"}
    assert sent["SecurityGroupIds"] == ["sg-1", "sg-2"]
    assert sent["BlockDeviceMappings"][0] == {
        "DeviceName": "/dev/sda1",
        "Ebs": {"Encrypted": True, "DeleteOnTermination": True, "VolumeType": "gp3", "VolumeSize": 40},
    }
    assert sent.get("SubnetId") == place.get("subnet")
    assert ("InstanceMarketOptions" in sent) is (market == "spot")
    assert sent["MinCount"] == sent["MaxCount"] == len(tasks)
    assert {"Key": "team", "Value": "a b"} in sent["TagSpecifications"][1]["Tags"]


@pytest.mark.parametrize("market", ["on-demand", "spot"])
@pytest.mark.parametrize("places", [[{}], [{"AvailabilityZone": "eu-west-1a"}, {"SubnetId": "subnet-1"}]])
def test_a_fleets_requests_are_of_the_service_model(model, market, places):
    """With every option set, CreateLaunchTemplate and CreateFleet are ones that EC2 knows."""
    wanted = order(fleet=True, market=market, types=["t3.small", "c7g.large"], places=places)
    template, fleet = requests.create_launch_template(wanted), requests.create_fleet(wanted)
    assert faults(model, "CreateLaunchTemplate", template) == ""
    assert faults(model, "CreateFleet", fleet) == ""
    assert base64.b64decode(template["LaunchTemplateData"]["UserData"]) == wanted.user_data
    assert len(fleet["LaunchTemplateConfigs"][0]["Overrides"]) == 2 * len(places)
    assert len(fleet["ClientToken"]) <= 64


def test_the_service_model_finds_what_is_wrong(model):
    """A member that EC2 doesn't know, or of another type, is found: the tests above could fail."""
    sent = requests.run_instances(order(type="t3.small", market="spot"))
    assert "Unknown parameter" in faults(model, "RunInstances", {**sent, "Nonsense": 1})
    assert "Invalid type" in faults(model, "RunInstances", {**sent, "MinCount": "1"})


def test_a_fleets_token_is_that_of_its_bytes():
    """The same order has the same token; signed anew, another."""
    one, other = (
        Order("job", ("0",), 1, "a", ENDS, data, {**EVERYTHING, "market": "spot", "types": ["t"], "places": [{}]})
        for data in (b"one", b"other")
    )
    assert requests.create_fleet(one) == requests.create_fleet(one)
    assert requests.create_fleet(one)["ClientToken"] != requests.create_fleet(other)["ClientToken"]


@pytest.mark.e2e
def test_an_option_goes_all_the_way(bench, document, parse, cloud, ec2):
    """Key, disk, subnet, groups by tag and by id, and tags of a job.yaml are in the request, and EC2 takes it."""
    subnet = ec2.describe_subnets()["Subnets"][0]
    ec2.create_tags(Resources=[subnet["SubnetId"]], Tags=[{"Key": "use", "Value": "batch"}])
    group = ec2.create_security_group(GroupName="ours", Description="ours", VpcId=subnet["VpcId"])["GroupId"]
    ec2.create_tags(Resources=[group], Tags=[{"Key": "use", "Value": "batch"}])
    ec2.create_key_pair(KeyName="mine")
    document["vm"].update(
        key="mine", disk=40, subnets="tag:use=batch", security_groups=["tag:use=batch"], tags={"team": "a"}
    )
    bench(document).launcher.launch(parse(document))
    sent = next(form for form in cloud.bodies if form["Action"] == "RunInstances")
    assert sent["KeyName"] == "mine"
    assert sent["BlockDeviceMapping.1.Ebs.VolumeSize"] == "40"
    assert sent["SubnetId"] == subnet["SubnetId"]
    assert sent["SecurityGroupId.1"] == group
    (found,) = instances(ec2)
    assert found["SubnetId"] == subnet["SubnetId"]
    assert [each["GroupId"] for each in found["SecurityGroups"]] == [group]


def test_an_instance_profile_is_sent_and_warned_of(bench, document, parse, cloud):
    """It goes into the request, and the operator is told what it gives away; without one nothing is said."""
    assert bench(document).plain.notice == ""
    document["vm"]["instance_profile"] = "some-profile"
    one = bench(document)
    assert "gives the VM credentials of that role" in one.plain.notice
    (choice,) = one.plain.choices(parse(document).vm.options)
    sent = requests.run_instances(
        Order("job", ("0",), 1, "a", ENDS, b"", choice.options),
    )
    assert sent["IamInstanceProfile"] == {"Name": "some-profile"}


class Answers:
    """An Api that answers by name, and keeps what it was asked."""

    region = REGION

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def call(self, action, parameters=None, **_):
        """Answer."""
        self.asked.append((action, parameters))
        return self.answers[action]


def test_an_image_is_found_by_its_parameter():
    """SSM says which image it is today, and EC2 its root device and size."""
    disks = [
        {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 99}},
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 8}},
    ]
    image = {"ImageId": "ami-1", "RootDeviceName": "/dev/sda1", "BlockDeviceMappings": disks}
    api = Answers(get_parameter={"Parameter": {"Value": "ami-1"}}, describe_images={"Images": [image]})
    found = resolve.find_image(api, "ssm:/aws/service/debian/release/12/latest/amd64")
    assert found == {"image": "ami-1", "root_device": "/dev/sda1", "disk": 8}
    assert api.asked == [
        ("get_parameter", {"Name": "/aws/service/debian/release/12/latest/amd64"}),
        ("describe_images", {"ImageIds": ["ami-1"]}),
    ]


def test_an_image_by_owner_and_name_is_the_newest():
    """Of all images of that owner and pattern, the one that was made last."""
    images = [
        {"ImageId": f"ami-{day}", "RootDeviceName": "/dev/xvda", "CreationDate": f"2026-01-{day}T00:00:00.000Z"}
        for day in ("02", "20", "11")
    ]
    api = Answers(describe_images={"Images": images})
    assert resolve.find_image(api, "137112412989/al2023-*/x") == {"image": "ami-20", "root_device": "/dev/xvda"}
    ((_, asked),) = api.asked
    assert asked["Owners"] == ["137112412989"]
    assert {"Name": "name", "Values": ["al2023-*/x"]} in asked["Filters"]
    with pytest.raises(errors.NotFound, match="there is no image self/nothing in eu-west-1"):
        resolve.find_image(Answers(describe_images={"Images": []}), "self/nothing")


def test_an_image_by_owner_and_name_is_asked_of_ec2(options, cloud, image):
    """Over HTTP, what is found by owner and name is the one image that there is."""
    (choice,) = provider({**options, "image": "137112412989/an *"}).choices({**options, "image": "137112412989/an *"})
    assert choice.options["image"] == image


def test_subnets_and_groups_by_tag():
    """Every subnet and group with the tag is taken, subnets with their zone, and only in the zones that are named."""
    subnets = [{"SubnetId": f"subnet-{zone}", "AvailabilityZone": f"eu-west-1{zone}"} for zone in "abc"]
    api = Answers(
        describe_subnets={"Subnets": subnets},
        describe_security_groups={"SecurityGroups": [{"GroupId": "sg-1"}, {"GroupId": "sg-2"}]},
    )
    named = {"subnets": ("tag:use=a=b",), "zones": ("eu-west-1a", "eu-west-1c")}
    assert resolve.find_placements(api, named) == [
        {"subnet": "subnet-a", "zone": "eu-west-1a"},
        {"subnet": "subnet-c", "zone": "eu-west-1c"},
    ]
    assert resolve.find_groups(api, ["sg-9", "tag:use=a"]) == ["sg-9", "sg-1", "sg-2"]
    assert api.asked[0][1] == {"Filters": [{"Name": "tag:use", "Values": ["a=b"]}]}
    with pytest.raises(errors.BadInput, match=r"no subnet of vm\.subnets is in eu-west-1z"):
        resolve.find_placements(api, {"subnets": ("subnet-1",), "zones": ("eu-west-1z",)})


@pytest.mark.parametrize(("tasks", "calls"), [(50, 50), (51, 2)])
def test_fifty_tasks_have_a_policy_each_and_fifty_one_share(bench, document, parse, tasks, calls):
    """Unless the job says otherwise, up to 50 tasks are isolated from each other; from 51 on they go in groups."""
    document["array"] = tasks
    plan = bench(document).launcher.plan(parse(document))
    assert len(plan.tasks) == calls
    assert plan.tasks[0].grouped is (tasks > 50)
    assert sum(len(task.members) for task in plan.tasks) == tasks


def test_ends_are_in_the_tags():
    """Expiry, order, job and attempt are on instance and volume alike, and no tag is longer than EC2 takes."""
    sent = requests.run_instances(order(tuple(map(str, range(0, 100, 2))), type="t3.small", market="spot"))
    (instance, volume) = sent["TagSpecifications"]
    assert instance["Tags"] == volume["Tags"]
    marked = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert marked[requests.EXPIRES] == "2026-12-01T00:00:00Z"
    assert datetime.strptime(marked[requests.EXPIRES], "%Y-%m-%dT%H:%M:%S%z") == ENDS
    assert all(len(value) <= 256 for value in marked.values())


def test_a_thousand_and_one_vms_take_two_requests(options, monkeypatch):
    """States and ends are asked for 1,000 ids at a time, the most that EC2 takes, and none is left out."""
    using, asked = provider(options), []

    def call(action, parameters, **_):
        asked.append((action, len(parameters["InstanceIds"])))
        found = [{"InstanceId": each, "State": {"Name": "running"}} for each in parameters["InstanceIds"]]
        return {"Reservations": [{"Instances": found}]}

    monkeypatch.setattr(using._api, "call", call)
    vms = [Instance(f"i-{number:x}", str(number), 1) for number in range(1001)]
    assert {state.phase for state in using.state(vms).values()} == {Phase.RUNNING}
    assert len(using.state(vms)) == 1001
    using.terminate(vms)
    assert asked == [("describe_instances", size) for size in (1000, 1, 1000, 1)] + [
        ("terminate_instances", size) for size in (1000, 1)
    ]


def test_every_page_is_read(bench, document, parse, cloud, monkeypatch):
    """A listing that EC2 gives in pages is asked for with its token until there is none, 1,000 VMs a page."""
    document.update(array=5, isolation="task")
    one = bench(document)
    record = one.launcher.launch(parse(document))
    cloud.bodies.clear()
    assert len(one.plain.list_instances(record.job)) == 5
    assert [form["MaxResults"] for form in cloud.bodies] == ["1000"]
    cloud.bodies.clear()
    monkeypatch.setattr("provisioner.providers.ec2.provider.PAGE", 2)
    assert sorted(item.id for item in one.plain.list_instances(record.job)) == sorted(
        item.id for item in record.instances
    )
    assert [form["MaxResults"] for form in cloud.bodies] == ["2"] * 3
    assert ["NextToken" in form for form in cloud.bodies] == [False, True, True]
