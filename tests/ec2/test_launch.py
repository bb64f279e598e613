"""Launching on EC2: what is asked for, what is there afterwards, and what a second launch finds."""

from __future__ import annotations

import base64
import itertools
import logging
from collections import Counter

import pytest

from agent import grant as grants
from provisioner.jobs import record as records
from provisioner.providers.ec2 import requests
from provisioner.userdata import render
from provisioner.userdata.parse import unpack
from provisioner.userdata.render import GRANT_PATH
from tests.ec2.conftest import KEYS, instances, tags
from tests.ec2.gateway import Fault

TOKEN = "ec2TOKENec2TOKENec2TOKENec2TOKEN"


def test_a_task_gets_one_vm_that_ends_itself(bench, document, parse, cloud, ec2):
    """One call starts a VM with IMDSv2, no role, an encrypted root, and every tag on instance and volume."""
    record = bench(document).launcher.launch(parse(document))
    (found,) = instances(ec2)
    assert [item.id for item in record.instances] == [found["InstanceId"]]
    assert cloud.calls["RunInstances"] == 1
    sent = next(form for form in cloud.bodies if form["Action"] == "RunInstances")
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert sent["MetadataOptions.HttpTokens"] == "required"
    assert sent["MetadataOptions.HttpPutResponseHopLimit"] == "1"
    assert sent["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert len(sent["ClientToken"]) <= 64
    assert not [name for name in sent if name.startswith(("IamInstanceProfile", "KeyName"))]
    volume = ec2.describe_volumes()["Volumes"][0]
    for marked in (tags(found), tags(volume)):
        assert marked[requests.JOB] == record.job
        assert marked[requests.TASK] == "0"
        assert marked[requests.ATTEMPT] == "1"
        assert marked[requests.EXPIRES].endswith("Z")


@pytest.mark.parametrize(("market", "heeds"), [("on-demand", None), ("spot", True), (["on-demand", "spot"], True)])
def test_spot_vms_alone_are_told_to_heed_a_notice(document, parse, bench, market, heeds):
    """The task of a VM that may be a spot one says so, and that of no other."""
    document["vm"]["market"] = market
    plan = bench(document).launcher.plan(parse(document))
    assert render.task_document(plan).get("spot") is heeds


@pytest.mark.e2e
def test_many_tasks_go_in_groups(bench, document, parse, cloud, ec2):
    """Sixty tasks take two RunInstances calls, and each VM has its own task's tag and status event."""
    document["array"] = 60
    launcher = bench(document)
    record = launcher.launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] == 2
    assert Counter(tags(found)[requests.TASK] for found in instances(ec2)) == Counter(map(str, range(60)))
    by_id = {found["InstanceId"]: tags(found)[requests.TASK] for found in instances(ec2)}
    assert {item.id: item.task for item in record.instances} == by_id
    keys = [entry.key for entry in launcher.store.list(f"p/{record.job}/")]
    assert sum(key.endswith("/launched") for key in keys) == 60
    assert not [key for key in keys if "/launch/" in key]
    assert [event.data["done"] for event in launcher.events if event.name == "launched"][-1] == 60


def test_isolation_task_gives_each_its_own_call(bench, document, parse, cloud, ec2):
    """With isolation: task, as many calls as tasks, each with a policy for its own prefix alone."""
    document.update(array=3, isolation="task")
    bench(document).launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] == 3
    assert len(instances(ec2)) == 3


def test_the_record_says_what_was_launched(bench, document, parse):
    """Another machine reads region, instances and completion from the bucket."""
    document["array"] = 2
    one = bench(document)
    record = one.launcher.launch(parse(document))
    read = records.parse(one.store.get(f"p/{record.job}/job.json"), "job.json")
    assert read.launched
    assert read.spec.vm.options["region"] == "eu-west-1"
    assert len(read.instances) == 2


def test_state_console_terminate(bench, document, parse):
    """States come by id, an unknown id is gone, terminate is safe to repeat."""
    document["array"] = 3
    one = bench(document)
    record = one.launcher.launch(parse(document))
    ghost = type(record.instances[0])("i-0123456789abcdef0", "9", 1)
    states = one.provider.state([*record.instances, ghost])
    assert [states[item.id].phase.value for item in record.instances] == ["running"] * 3
    assert states[ghost.id].phase.value == "gone"
    assert isinstance(one.provider.console(record.instances[0]), bytes)
    assert one.provider.console(ghost) == b""
    for _ in range(2):
        one.provider.terminate([*record.instances, ghost])
    assert {each.phase.value for each in one.provider.state(record.instances).values()} == {"gone"}
    assert one.provider.list_instances(record.job) == []


def secrets_of(data):
    """The policies and signatures that a user-data holds, each as text."""
    (text,) = [item.content for item in unpack(data).files if item.path == GRANT_PATH]
    grant = grants.parse(text)
    found = [grant.outputs.policy, grant.status.policy]
    found += [target.fields["x-amz-signature"] for target in (grant.outputs, grant.status)]
    assert all(len(each) >= 64 for each in found)
    return found


@pytest.mark.parametrize("fleet", [False, True])
def test_no_secret_leaves_the_user_data(bench, document, parse, store, cloud, ec2, monkeypatch, caplog, fleet):
    """No key, token, policy or signature stands in tags, names, events, logs, journal, record or requests."""
    document.update(array=2, isolation="task" if fleet else "group")
    document["vm"]["fleet"] = fleet
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, "provisioner")
    one = bench(document)
    send, sent, kept = one.plain.launch, [], []

    def launch(order):
        sent.append(order.user_data)
        kept.extend(one.store.get(entry.key).partition(order.user_data) for entry in one.store.list("p/"))
        seen.append(repr(order))
        return send(order)

    seen = []
    one.plain.launch = launch
    cloud.inject("DeleteLaunchTemplate" if fleet else "CreateTags", Fault("UnauthorizedOperation", "no", 403))
    one.launcher.launch(parse(document))
    assert [order for order in sent if any(data == order for _, data, _ in kept)] == sent  # each was in the journal
    assert "UnauthorizedOperation" in caplog.text
    hidden = [store.secret_key, KEYS["AWS_SECRET_ACCESS_KEY"], TOKEN, *itertools.chain(*map(secrets_of, sent))]
    seen += [str(event) for event in one.events]
    seen += [caplog.text, str(instances(ec2)), str(ec2.describe_launch_templates()["LaunchTemplates"])]
    # Another order's user-data may be in the journal at that time: what stands before its line feed counts.
    seen += [(head.partition(b"\n")[0] + tail).decode(errors="replace") for head, _, tail in kept]
    seen += [one.store.get(entry.key).decode(errors="replace") for entry in one.store.list("p/")]
    for form in cloud.bodies:
        seen.append(str({key: value for key, value in form.items() if not key.endswith("UserData")}))
    for text in seen:
        assert not [each for each in hidden if each in text]
        assert "x-amz-signature" not in text.lower()
        assert base64.b64encode(b'{"expiration"').decode()[:16] not in text
