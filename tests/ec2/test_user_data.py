"""What EC2 holds as user-data is what a machine boots: taken back from EC2, it runs and does its task."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent import grant as grants
from provisioner.cloudconfig import unpack
from provisioner.errors import MissingDependency
from provisioner.keys import JobKeys
from provisioner.providers.base import Order
from provisioner.providers.local import LocalProvider
from provisioner.userdata import GRANT_PATH
from tests import guests
from tests.ec2.conftest import until


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
    shared = grants.parse(text)
    assert shared.task == "8-11"
    for index, task in enumerate(["8", "9", "10", "11"]):
        own = grants.member(shared, index)
        assert own.task == task
        assert own.outputs.prefix == JobKeys("p", record.job).outputs(task, 1)
        conditions = grants.conditions(own.outputs.policy)
        (prefix,) = [value for kind, name, value in conditions if (kind, name) == ("starts-with", "key")]
        assert own.outputs.prefix.startswith(prefix)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_it_boots_a_machine(bench, document, parse, ec2, store, tmp_path):
    """The bytes that EC2 has boot a machine under real cloud-init, and the task is done."""
    try:
        provider = guests.KINDS["machine"].make(Path(tmp_path), store.endpoint_url)
        provider._check(guests.built("bookworm"))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")
    one = bench(document)
    one.plain.guest_url = provider.guest_url  # EC2 reaches the store by its own name; this machine, by its host's
    record = one.launcher.launch(parse(document))
    (instance,) = record.instances
    booted = provider.launch(order(record, instance, user_data(ec2, instance)))
    try:
        until(lambda: succeeded(one, record, "0"), 300)
    finally:
        provider.terminate(booted)
