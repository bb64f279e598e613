"""Each kind of error at each call that the provider makes: its class, what to do next, and no VM that is forgotten."""

from __future__ import annotations

import functools
import os
import secrets
from datetime import datetime, timedelta, timezone

import botocore.exceptions as boto_errors
import pytest

from provisioner import errors
from provisioner.providers.base import Instance, Order, ProviderResource
from provisioner.providers.ec2 import requests
from provisioner.providers.ec2.api import Api
from provisioner.providers.ec2.errors import classify, translate
from provisioner.retry import Retry
from tests.ec2.conftest import KEYS, REGION, provider, tags
from tests.ec2.gateway import Fault, Gateway

# Code, HTTP status, and the class it must become, as AWS sends them: one of each class at each call.
KINDS = [
    ("InsufficientInstanceCapacity", 500, errors.NoCapacity),
    ("VcpuLimitExceeded", 400, errors.OverQuota),
    ("RequestLimitExceeded", 503, errors.Throttled),
    ("InternalError", 500, errors.Unreachable),
    ("UnauthorizedOperation", 403, errors.Refused),
    ("AuthFailure", 401, errors.NoCredentials),
    ("ExpiredToken", 400, errors.Expiry),
    ("InvalidParameterValue", 400, errors.BadInput),
    ("IdempotentParameterMismatch", 400, errors.Conflict),
]
MORE_KINDS = [
    ("Unsupported", 400, errors.NoCapacity),
    ("MaxSpotInstanceCountExceeded", 400, errors.OverQuota),
    ("Unavailable", 503, errors.Unreachable),
    ("", 502, errors.Unreachable),
    ("RequestExpired", 400, errors.Expiry),
    ("InvalidAMIID.NotFound", 400, errors.BadInput),
    ("IdempotentInstanceTerminated", 400, errors.Conflict),
    ("InvalidInstanceID.NotFound", 400, errors.NotFound),
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 403, errors.Refused),
    ("ReservationCapacityExceeded", 400, errors.NoCapacity),
]
# The same of SSM, Service Quotas and STS, which have codes of their own.
OTHER_KINDS = [
    ("ThrottlingException", 400, errors.Throttled),
    ("InternalServerError", 500, errors.Unreachable),
    ("AccessDeniedException", 400, errors.Refused),
    ("UnrecognizedClientException", 400, errors.NoCredentials),
    ("ExpiredTokenException", 400, errors.Expiry),
    ("ValidationException", 400, errors.BadInput),
]
GONE = Instance("i-0123456789abcdef0", "0", 1)


class Case:
    """An order of its own, on a cloud that other cases use too."""

    def __init__(self, cloud, using, options, ec2):
        self.cloud, self.provider, self.options, self.ec2 = cloud, using, options, ec2
        self.token = secrets.token_hex(8)
        cloud.calls.clear()

    def order(self, tasks=("0",), **more):
        """An order, of the first choice that there is."""
        options = dict(self.provider.choices({**self.options, **more})[0].options)
        ends = datetime.now(timezone.utc) + timedelta(hours=1)
        return Order("errors", tuple(tasks), 1, self.token, ends, b"#cloud-config\n", options, fresh=True)

    def alive(self):
        """Every VM of this order."""
        wanted = [{"Name": f"tag:{requests.ORDER}", "Values": [self.token]}]
        pages = self.ec2.describe_instances(Filters=wanted)["Reservations"]
        return [found for page in pages for found in page["Instances"]]

    def templates(self):
        """Every launch template of this order."""
        found = self.ec2.describe_launch_templates()["LaunchTemplates"]
        return [each for each in found if tags(each).get(requests.ORDER) == self.token]


@pytest.fixture(scope="module")
def shared(moto):
    """A gateway to an EC2 that all cases share: each looks at its own order alone."""
    with pytest.MonkeyPatch.context() as patch, Gateway(moto) as gateway:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {**KEYS, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():
            patch.setenv(name, value)
        yield gateway


@pytest.fixture(scope="module")
def using(shared, image):
    """A provider, and the options that it was made with."""
    options = {"region": REGION, "endpoint_url": shared.url, "image": image}
    return provider(options), options


@pytest.fixture
def case(shared, using, ec2):
    """A case; what it injected is gone afterwards."""
    yield Case(shared, *using, ec2)
    shared.faults.clear()


def resource(kind, name):
    """Something that gc would remove."""
    return ProviderResource(kind, name, "errors", None, "")


# The calls that raise what they meet, and what makes them. A launch is prepared before its fault is injected.
RAISING = {
    "DescribeImages": lambda case: lambda: case.provider.choices(case.options),
    "DescribeSubnets": lambda case: lambda: case.provider.choices({**case.options, "subnets": ["tag:a=b"]}),
    "DescribeSecurityGroups": lambda case: (
        lambda: case.provider.choices({**case.options, "security_groups": ["tag:a=b"]})
    ),
    "RunInstances": lambda case: functools.partial(case.provider.launch, case.order()),
    "CreateLaunchTemplate": lambda case: functools.partial(case.provider.launch, case.order(fleet=True)),
    "CreateFleet": lambda case: functools.partial(case.provider.launch, case.order(fleet=True)),
    "DescribeInstances": lambda case: lambda: case.provider.state([GONE]),
    "DescribeLaunchTemplates": lambda case: case.provider.list_resources,
    "TerminateInstances": lambda case: lambda: case.provider.terminate([GONE]),
    "DeleteLaunchTemplate": lambda case: lambda: case.provider.remove_resources([resource("template", "lt-1")]),
    "GetConsoleOutput": lambda case: lambda: case.provider.console(GONE),
}
OTHERS = {
    "GetParameter": lambda case: lambda: case.provider.choices({**case.options, "image": "ssm:/some/image"}),
}


@pytest.mark.parametrize(
    ("action", "code", "status", "kind"),
    [
        *((action, *kind) for action in RAISING for kind in KINDS),
        *((action, *kind) for action in OTHERS for kind in OTHER_KINDS),
    ],
)
def test_an_error_has_its_class(case, action, code, status, kind):
    """The class says what helps, the sentence names call and code, the hint a next step, and nothing is left."""
    do = {**RAISING, **OTHERS}[action](case)
    case.cloud.inject(action, Fault(code, "You may not.", status))
    with pytest.raises(errors.FreepostError) as caught:
        do()
    assert type(caught.value) is kind
    assert f"answered {action} with {code}: You may not." in caught.value.message
    assert caught.value.hint
    assert case.alive() == []
    assert case.templates() == []


@pytest.mark.parametrize(("code", "status", "kind"), MORE_KINDS)
def test_a_code_has_its_class(code, status, kind):
    """Other codes of the same classes, and a status without a code."""
    found = classify(code, "no", "RunInstances", status)
    assert type(found) is kind
    assert str(code or status) in found.message


@pytest.mark.parametrize(
    "error",
    [
        boto_errors.UnauthorizedSSOTokenError(),
        boto_errors.SSOTokenLoadError(error_msg="none"),
        boto_errors.TokenRetrievalError(provider="sso", error_msg="none"),
        boto_errors.CredentialRetrievalError(provider="process", error_msg="none"),
        boto_errors.NoCredentialsError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_session_that_gives_no_credentials_is_said(error):
    """What botocore raises where it finds none: no network error to be tried again, but exit code 3 and a hint."""
    found = translate(error, "RunInstances")
    assert type(found) is errors.NoCredentials
    assert found.hint


@pytest.mark.parametrize(("code", "status", "kind"), KINDS)
def test_a_vm_that_can_not_be_tagged_is_not_lost(case, caplog, code, status, kind):
    """What may pass is raised and tried again, which finds the VMs; anything else is told, and the VMs come back."""
    order = case.order(("0", "1"))
    case.cloud.inject("CreateTags", Fault(code, status=status))
    if issubclass(kind, errors.Unreachable):
        with pytest.raises(kind):
            case.provider.launch(order)
        assert {tags(found)[requests.TASKS] for found in case.alive()} == {"0-1"}
    else:
        assert [item.task for item in case.provider.launch(order)] == ["0", "1"]
        assert code in caplog.text
    assert sorted(item.task for item in case.provider.launch(order)) == ["0", "1"]
    assert case.cloud.calls["RunInstances"] == 1
    assert sorted(tags(found)[requests.TASK] for found in case.alive()) == ["0", "1"]


@pytest.mark.parametrize("times", [1, 4])
def test_a_vm_too_young_to_be_tagged_is_tagged_later(case, caplog, times):
    """EC2 has made it and doesn't know it yet: tried again, and after some tries done without."""
    order = case.order(("0", "1"))
    unknown = Fault("InvalidInstanceID.NotFound", "The instance ID 'i-0' does not exist")
    case.cloud.inject("CreateTags", *[unknown] * times)
    started = Retry(sleep=lambda _: None)(case.provider.launch, order)
    assert sorted(item.task for item in started) == ["0", "1"]
    assert ("not its task's own" in caplog.text) is (times == 4)
    tagged = {tags(found).get(requests.TASK) for found in case.alive()}
    assert tagged == ({"0", "1"} if times == 1 else {None, "1"})
    assert case.cloud.calls["RunInstances"] == 1


@pytest.mark.parametrize(("code", "status", "kind"), KINDS)
def test_a_template_that_can_not_be_deleted_is_not_lost(case, caplog, code, status, kind):
    """The fleet's VM comes back, the operator is told, and gc finds the template by its tags."""
    order = case.order(fleet=True)
    case.cloud.inject("DeleteLaunchTemplate", Fault(code, status=status))
    (started,) = case.provider.launch(order)
    assert [found["InstanceId"] for found in case.alive()] == [started.id]
    assert code in caplog.text
    (left,) = case.templates()
    found = [each for each in case.provider.list_resources() if each.id == left["LaunchTemplateId"]]
    assert [(each.kind, each.job) for each in found] == [("template", "errors")]
    case.provider.remove_resources(found)
    assert case.templates() == []


@pytest.mark.parametrize(("code", "status", "kind"), KINDS)
def test_a_lost_vm_is_looked_for_until_it_is_found(case, code, status, kind):
    """The answer to RunInstances was lost: whatever looking for the VM meets, it stays open what became of it."""
    order = case.order()
    case.cloud.inject("RunInstances", Fault(lost=True))
    with pytest.raises(errors.Unreachable):
        case.provider.launch(order)
    case.cloud.inject("DescribeInstances", Fault(code, status=status))
    with pytest.raises(errors.Unreachable, match=code):
        case.provider.launch(order)
    assert [item.id for item in case.provider.launch(order)] == [found["InstanceId"] for found in case.alive()]
    assert case.cloud.calls["RunInstances"] == 1


@pytest.mark.parametrize("action", ["GetCallerIdentity", "GetServiceQuota", "DescribeInstanceTypes", "DescribeImages"])
@pytest.mark.parametrize(("code", "status", "kind"), OTHER_KINDS)
def test_doctor_turns_errors_into_lines(case, action, code, status, kind):
    """No error of any call ends the examination: it becomes a line that names the code, and a hint."""
    case.cloud.inject(action, Fault(code, status=status))
    (line,) = [each for each in case.provider.checks(case.options, 1) if code in each.text]
    assert line.good is not True
    assert line.hint
    assert case.alive() == []


def test_a_permission_of_another_service_is_named(case):
    """The hint names the permission that AWS's sentence names, or else the call's own, with its service."""
    text = "You are not authorized to perform: ec2:CreateTags on resource: arn:aws:ec2:x"
    order = case.order()
    case.cloud.inject("RunInstances", Fault("UnauthorizedOperation", text, 403))
    with pytest.raises(errors.Refused) as caught:
        case.provider.launch(order)
    assert caught.value.hint == "the credentials need the permission ec2:CreateTags"
    case.cloud.inject("GetParameter", Fault("AccessDeniedException", "no"))
    with pytest.raises(errors.Refused) as caught:
        case.provider.choices({**case.options, "image": "ssm:/some/image"})
    assert caught.value.hint == "the credentials need the permission ssm:GetParameter"


def test_what_is_not_ec2_is_said_to_be_so(case):
    """A proxy's page instead of XML is one sentence, and may pass."""
    case.cloud.pages.append(b"<!doctype html><title>Welcome</title><p>Sign in & go on")
    with pytest.raises(errors.Unreachable, match="what answered DescribeImages is not EC2"):
        case.provider.choices(case.options)


def test_an_endpoint_that_only_botocore_refuses_is_the_operators_to_correct(monkeypatch):
    """It is no cloud that can't be reached, which would be tried again."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(errors.BadInput, match=r"EC2 can't be where vm\.endpoint_url says"):
        Api({"endpoint_url": "http://a..b"}).call("describe_instances")
