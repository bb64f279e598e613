"""`provision doctor` and `provision gc`, as an operator runs them."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
from datetime import datetime, timedelta, timezone

import pytest

from provisioner.cli import app
from provisioner.clock import iso
from provisioner.jobs.record import dump
from provisioner.plan.layout import JobKeys
from provisioner.providers.ec2 import requests
from tests.ec2.conftest import instances, tags
from tests.ec2.gateway import Fault


@pytest.fixture
def provision(cloud, monkeypatch, tmp_path, store, capsys):
    """Run a command with the store's keys in the environment; give exit code, standard output and standard error."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(tmp_path / "state"))

    def run(*words):
        code = app.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def job(document, tmp_path):
    """The path of a job.yaml for EC2."""

    def write():
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps(document))
        return path

    return write


def test_doctor_says_yes_to_what_works(provision, job, ec2, image):
    """Credentials, bucket, a write through a policy, image and a dry run: each a line; nothing is launched."""
    code, out, err = provision("doctor", job())
    assert code == 0, err
    for line in ("signing credentials", "write through a policy", "ec2 credentials", f"image: {image}", "dry run"):
        assert f"ok  {line}" in out
    assert instances(ec2) == []


def test_doctor_asks_nothing_of_a_cloud_without_dry_runs(provision, job, cloud, ec2):
    """A cloud that ignores DryRun is not asked for a VM at all, and the line says so."""
    cloud.eager = frozenset({"DescribeInstances", "RunInstances"})
    code, out, err = provision("doctor", job())
    assert code == 0, err
    assert "?   dry run: not asked" in out
    assert cloud.calls["RunInstances"] == 0
    assert instances(ec2) == []


@pytest.mark.parametrize("lost", [False, True])
def test_doctor_ends_a_vm_that_came_of_a_dry_run(provision, job, cloud, ec2, lost):
    """Where RunInstances alone ignores DryRun, the VM is ended at once and named, also when the answer was lost."""
    cloud.eager = frozenset({"RunInstances"})
    if lost:
        cloud.inject("RunInstances", Fault(lost=True))
    code, out, _ = provision("doctor", job())
    (found,) = instances(ec2)
    assert found["State"]["Name"] == "terminated"
    assert code == 6
    assert f"it started {found['InstanceId']}, which was ended at once" in out
    sent = next(form for form in cloud.bodies if form["Action"] == "RunInstances")
    assert sent["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert base64.b64decode(sent["UserData"]).endswith(b"poweroff\n")


def test_doctor_says_what_it_could_not_end(provision, job, cloud, ec2):
    """A VM that came of a dry run and can't be ended is never passed over: who ends it then, and when."""
    cloud.eager = frozenset({"RunInstances"})
    cloud.inject("TerminateInstances", Fault("UnauthorizedOperation", status=403))
    code, out, _ = provision("doctor", job())
    assert code == 6
    assert "could not be looked for or ended" in out
    assert "provision gc shows and removes it in ten minutes" in out
    (found,) = instances(ec2)
    assert tags(found)[requests.JOB] == "freepost-doctor"


@pytest.mark.parametrize("eager", [False, True])
def test_doctor_leaves_no_template(provision, job, document, cloud, ec2, eager):
    """A fleet's dry run is that of its launch template, which goes where the cloud made it."""
    document["vm"]["fleet"] = True
    cloud.eager = frozenset({"CreateLaunchTemplate"} if eager else ())
    code, out, _ = provision("doctor", job())
    assert code == (6 if eager else 0)
    assert ("which was ended at once" in out) is eager
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []


def test_doctor_says_no_and_what_to_do(provision, job, cloud):
    """A missing permission is a line with its remedy, and the exit code says that something is wrong."""
    cloud.inject("RunInstances", Fault("UnauthorizedOperation", "You are not authorized.", 403))
    code, out, err = provision("doctor", job())
    assert code == 6
    assert "NO  dry run: t3.small, on-demand" in out
    assert "→ the credentials need the permission ec2:RunInstances" in out
    assert "Traceback" not in err


def test_doctor_finds_a_wrong_bucket(provision, job, document):
    """Without the bucket there is one sentence and no traceback."""
    document["store"]["url"] = "s3://no-such-bucket-here/p"
    code, out, err = provision("doctor", job())
    assert code == 6
    assert "NO  write through a policy: the store has no such bucket" in out
    assert "Traceback" not in err


def test_doctor_needs_no_job(provision, bucket, store):
    """With a store and a local provider alone it checks these, as JSON too."""
    words = ["--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url, "--provider", "local", "--json"]
    code, out, err = provision("doctor", *words)
    assert code == 0, err
    assert [each["good"] for each in json.loads(out)] == [True, True, True, True, None]


@pytest.mark.e2e
def test_a_launch_that_finds_no_room_says_so_once(provision, job, document, cloud, ec2):
    """Exit code 5, and one sentence that lists every choice with its own error; nothing is launched."""
    document["vm"].update(type=["t3.micro", "t3.small"])
    cloud.inject("RunInstances", Fault("InsufficientInstanceCapacity", "none", 500), Fault("VcpuLimitExceeded", "no"))
    code, _, err = provision("launch", job())
    assert code == 5
    (sentence,) = [line for line in err.splitlines() if line.startswith("provision: ")]
    assert sentence.endswith(
        "started none of 1 tasks: no choice has room: "
        "t3.micro, on-demand: EC2 answered RunInstances with InsufficientInstanceCapacity: none; "
        "t3.small, on-demand: EC2 answered RunInstances with VcpuLimitExceeded: no"
    )
    assert "the same command goes on from here" in err
    assert instances(ec2) == []


def gc(provision, bucket, store, *words):
    """Run gc on the test's store; give what it found."""
    where = ["--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url]
    code, out, err = provision("gc", *where, "--json", *words)
    assert code == 0, err
    return json.loads(out.splitlines()[0])["found"]


def test_gc_leaves_a_running_job_alone(provision, bench, document, parse, bucket, store, ec2):
    """While a job runs nothing of it is shown, and --yes removes nothing."""
    document["array"] = 2
    bench(document).launcher.launch(parse(document))
    assert gc(provision, bucket, store, "--yes") == []
    assert {each["State"]["Name"] for each in instances(ec2)} == {"running"}


def test_gc_shows_and_removes_vms_of_a_job_that_is_over(provision, bench, document, parse, bucket, store, ec2):
    """When every task has ended, VMs that are still there are shown first, and ended with --yes."""
    document["array"] = 2
    one = bench(document)
    record = one.launcher.launch(parse(document))
    for task in ("0", "1"):
        one.store.put(JobKeys("p", record.job).event(task, 1, "succeeded"), b"{}")
    shown = gc(provision, bucket, store)
    assert sorted(each["id"] for each in shown) == sorted(item.id for item in record.instances)
    assert {each["State"]["Name"] for each in instances(ec2)} == {"running"}
    gc(provision, bucket, store, "--yes")
    assert {each["State"]["Name"] for each in instances(ec2)} == {"terminated"}
    assert gc(provision, bucket, store) == []


def test_gc_finds_what_expired_whoever_launched_it(provision, cloud, bucket, store, ec2, image):
    """A VM and a template of a job that this store knows nothing of go by their expiry; another's live VM stays."""
    past, ahead = (datetime.now(timezone.utc) + timedelta(hours=hours) for hours in (-1, 1))
    marked = [
        requests.tag_list({requests.JOB: "elsewhere", requests.TASK: "0", requests.EXPIRES: iso(when)})
        for when in (past, ahead)
    ]
    for given in marked:
        ec2.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=[{"ResourceType": "instance", "Tags": given}]
        )
        ec2.create_launch_template(
            LaunchTemplateName=f"t{marked.index(given)}",
            LaunchTemplateData={"ImageId": image},
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": given}],
        )
    where = f"ec2,region=eu-west-1,endpoint_url={cloud.url}"
    found = gc(provision, bucket, store, "--provider", where, "--yes")
    assert sorted(each["kind"] for each in found) == ["template", "vm"]
    assert sorted(each["State"]["Name"] for each in instances(ec2)) == ["running", "terminated"]
    assert [each["LaunchTemplateName"] for each in ec2.describe_launch_templates()["LaunchTemplates"]] == ["t1"]


@pytest.mark.e2e
def test_gc_goes_on_when_a_cloud_fails(provision, bench, document, parse, cloud, bucket, store, ec2):
    """What can't be looked through, or isn't installed, is told with exit code 6; the others are cleared."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    one.store.put(JobKeys("p", record.job).event("0", 1, "succeeded"), b"{}")
    where = ["--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url]
    bad = ["ec2,region=eu-west-1,endpoint_url=http://127.0.0.1:1", "nosuch"]
    code, out, err = provision("gc", "--yes", *where, *itertools.chain(*(("--provider", each) for each in bad)))
    assert code == 6, err
    assert record.instances[0].id in out
    assert {each["State"]["Name"] for each in instances(ec2)} == {"terminated"}
    assert "2 clouds could not be looked through or cleared: " in err
    assert "ec2 eu-west-1 http://127.0.0.1:1: EC2 can't be reached" in err
    assert "nosuch: " in err
    assert "Traceback" not in err


def test_gc_leaves_the_vms_of_a_launch_that_goes_on(provision, bench, document, parse, bucket, store, ec2):
    """While thousands are launched the record has the first ones' expiry: a VM's own tag says when it may go."""
    one = bench(document)
    record = one.launcher.launch(parse(document))
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    key = f"p/{record.job}/job.json"
    one.store.put(key, dump(dataclasses.replace(record, expires=past)))
    assert gc(provision, bucket, store, "--yes") == []
    assert {each["State"]["Name"] for each in instances(ec2)} == {"running"}


def test_gc_removes_the_marks_and_orders_of_a_launch_that_nobody_ended(
    provision, bench, document, parse, bucket, store, cloud, monkeypatch
):
    """A launch cut off for good leaves a mark, an order with user-data, and maybe a VM: all go when it has expired."""
    cloud.inject("RunInstances", Fault(lost=True), *[Fault("InternalError", status=500)] * 9)
    cloud.inject("DescribeInstances", *[Fault("InternalError", status=500)] * 9)
    one = bench(document)
    with contextlib.suppress(Exception):
        one.launcher.launch(parse(document))
    cloud.faults.clear()
    recorded = one.store.list("p/")
    assert any("/launch/" in entry.key for entry in recorded)
    assert gc(provision, bucket, store, "--yes") == []
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    monkeypatch.setattr("provisioner.clock.utc_now", lambda: later)
    assert sorted(each["kind"] for each in gc(provision, bucket, store, "--yes")) == ["mark", "order", "vm"]
    assert not [entry.key for entry in one.store.list("p/") if "/launch/" in entry.key or ".launching" in entry.key]


@pytest.mark.e2e
def test_terminate_ends_what_no_record_knows(provision, bench, document, parse, bucket, store, cloud, ec2):
    """A VM whose launcher died before the record was written is found by its tag."""
    cloud.inject("RunInstances", Fault(lost=True), *[Fault("InternalError", status=500)] * 9)
    cloud.inject("DescribeInstances", *[Fault("InternalError", status=500)] * 9)
    with contextlib.suppress(Exception):
        bench(document).launcher.launch(parse(document))
    cloud.faults.clear()
    (found,) = instances(ec2)
    job = next(tag["Value"] for tag in found["Tags"] if tag["Key"] == requests.JOB)
    where = ["--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url]
    code, _, err = provision("terminate", job, *where)
    assert code == 0, err
    assert {each["State"]["Name"] for each in instances(ec2)} == {"terminated"}
