"""What EC2 holds as user-data is what a machine boots: taken back from EC2, it runs and does its task."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import tests.support.metadata
from agent import grant
from agent.layout import FINAL_EVENTS
from provisioner.errors import MissingDependency, NotFound
from provisioner.plan.layout import JobKeys
from provisioner.providers.base import Order
from provisioner.providers.local import LocalProvider
from provisioner.userdata import seed
from provisioner.userdata.parse import unpack
from provisioner.userdata.render import GRANT_PATH
from tests.ec2.conftest import instances, until
from tests.support import guests


def user_data(ec2, instance):
    """The user-data of an instance, as EC2 hands it back."""
    found = ec2.describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
    return base64.b64decode(found["UserData"]["Value"])


def order(record, instance, data):
    """An order for another provider, with EC2's bytes."""
    ahead = datetime.now(timezone.utc) + timedelta(hours=1)
    return Order(record.job, (instance.task,), 1, f"boots{instance.task}", ahead, data)


def succeeded(one, record, task):
    """Whether a task's last event is there, with its output."""
    keys = JobKeys("p", record.job)
    found = {entry.key for entry in one.store.list(keys.root)}
    return {keys.event(task, 1, "succeeded"), keys.outputs(task, 1) + "out"} <= found


def test_it_does_its_task(bench, document, parse, ec2, tmp_path):
    """The bytes that EC2 has for each of two tasks, run by the local provider, bring each its own output home."""
    document["array"] = 2
    one = bench(document)
    record = one.launcher.launch(parse(document))
    here = LocalProvider(tmp_path / "local")
    for instance in record.instances:
        here.launch(order(record, instance, user_data(ec2, instance)))
    try:
        for instance in record.instances:
            until(lambda task=instance.task: succeeded(one, record, task), 60)
            key = JobKeys("p", record.job).outputs(instance.task, 1) + "out"
            assert one.store.get(key).decode().strip() == instance.task
    finally:
        ids = [type(instance)(f"boots{instance.task}", instance.task, 1) for instance in record.instances]
        here.terminate(ids)


def test_a_groups_grant_names_every_task(bench, document, parse, ec2):
    """VMs of a group have the same bytes; with its launch index each finds its own task, and the policy admits it."""
    document.update(array="8-11", isolation="group")
    one = bench(document)
    record = one.launcher.launch(parse(document))
    (data,) = {user_data(ec2, instance) for instance in record.instances}
    (text,) = [item.content for item in unpack(data).files if item.path == GRANT_PATH]
    shared = grant.parse(text)
    assert shared.task == "8-11"
    for index, task in enumerate(["8", "9", "10", "11"]):
        own = grant.for_index(shared, index)
        assert own.task == task
        assert own.outputs.prefix == JobKeys("p", record.job).outputs(task, 1)
        conditions = grant.conditions(own.outputs.policy)
        (prefix,) = [value for kind, name, value in conditions if (kind, name) == ("starts-with", "key")]
        assert own.outputs.prefix.startswith(prefix)


# Runs in the guest before the job does, as cloud-init's vendor data: the metadata service that EC2 would be.
SERVICE = """#!/bin/sh
ip addr add 169.254.169.254/32 dev lo
mkdir -p /run/imds/
cat >/run/imds/metadata.py <<'END'
{module}
END
cat >/run/imds/serve.py <<'END'
{program}
END
systemd-run --quiet python3 /run/imds/serve.py
"""
SERVE = """
import json, os, time
from metadata import metadata
with metadata({said!r}, ("169.254.169.254", 80)) as server:
    while not os.path.exists("/srv/job/noticed"):
        time.sleep(0.2)
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    server.said["spot/instance-action"] = json.dumps({{"action": "terminate", "time": end}})
    time.sleep(600)
"""


@pytest.fixture
def machines(store, tmp_path, monkeypatch):
    """Boot machines with EC2's bytes, each with a metadata service of its own; they are ended at the end."""
    try:
        provider = guests.KINDS["machine"].make(Path(tmp_path), store.endpoint_url)
        provider._check(guests.built("bookworm"))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")
    booted, plain = [], seed.seed_files

    def boot(record, instance, data, said):
        vendor = SERVICE.format(
            module=Path(tests.support.metadata.__file__).read_text(), program=SERVE.format(said=said)
        )
        monkeypatch.setattr(seed, "seed_files", lambda *a, **k: {**plain(*a, **k), "vendor-data": vendor.encode()})
        booted.extend(provider.launch(order(record, instance, data)))

    boot.provider = provider
    try:
        yield boot
    finally:
        provider.terminate(booted)


def finished(one, record, instance):
    """The last event of a task, by name and content, once it is there."""
    keys = JobKeys("p", record.job)
    for event in FINAL_EVENTS:
        with contextlib.suppress(NotFound):
            return event, json.loads(one.store.get(keys.event(instance.task, instance.attempt, event)))
    return None


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_members_of_a_group_boot_machines(bench, document, parse, ec2, machines):
    """The bytes that EC2 has for two VMs of a group boot two machines: each does the task of its launch index."""
    document.update(array="8-9", isolation="group")
    one = bench(document)
    one.plain.guest_url = machines.provider.guest_url  # EC2 reaches the store by its name; this machine, by its host's
    record = one.launcher.launch(parse(document))
    indexes = {found["InstanceId"]: found["AmiLaunchIndex"] for found in instances(ec2)}
    assert sorted(indexes.values()) == [0, 1]
    for instance in record.instances:
        machines(record, instance, user_data(ec2, instance), {"ami-launch-index": str(indexes[instance.id])})
    for instance in record.instances:
        until(lambda each=instance: finished(one, record, each), 300)
        assert finished(one, record, instance)[0] == "succeeded"
        key = JobKeys("p", record.job).outputs(instance.task, 1) + "out"
        assert one.store.get(key).decode().strip() == instance.task


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_spot_machine_is_interrupted(bench, document, parse, ec2, machines):
    """The bytes of a spot VM boot a machine whose notice comes while the job runs: what there is is stored, in time."""
    document["vm"]["market"] = "spot"
    document["run"]["command"] = "echo 1 > out; touch noticed; sleep 600"
    one = bench(document)
    one.plain.guest_url = machines.provider.guest_url
    record = one.launcher.launch(parse(document))
    (instance,) = record.instances
    machines(record, instance, user_data(ec2, instance), {})
    until(lambda: finished(one, record, instance), 300)
    event, said = finished(one, record, instance)
    assert event == "interrupted"
    assert said["reason"].startswith("interrupted: spot capacity was taken back")
    assert one.store.get(JobKeys("p", record.job).outputs("0", 1) + "out") == b"1\n"
