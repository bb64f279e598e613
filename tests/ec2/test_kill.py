"""A launcher that is killed and run again makes no VM twice and forgets none."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from provisioner.providers.ec2 import requests
from tests.ec2.conftest import KEYS, instances, tags


def launch_killed(path, environment, cloud, calls, more):
    """Run `provision launch` and kill it once EC2 got `calls` calls and `more` seconds passed. Return its exit code."""
    before = cloud.calls.total()
    with path.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "provisioner", "launch", str(path)]
        launcher = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while launcher.poll() is None and (calls is None or cloud.calls.total() - before < calls):
            time.sleep(0.002)
        if calls is not None:
            time.sleep(more)
    finally:
        if calls is not None:
            launcher.send_signal(signal.SIGKILL)
        code = launcher.wait()
    return code


def killed_and_run_again(document, cloud, store, tmp_path, kills):
    """Launch `document`, killed at so many random points before its end, then once more to the end."""
    chance = random.Random(20261123)
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(document))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))},
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "FREEPOST_STATE_DIR": str(tmp_path / "state"),
    }
    tasks = document["array"]
    for _ in range(kills):
        assert (
            launch_killed(path, environment, cloud, chance.randrange(1, tasks // kills), chance.uniform(0, 0.05))
            == -signal.SIGKILL
        )
    assert launch_killed(path, environment, cloud, None, 0) == 0, path.with_suffix(".log").read_text()[-2000:]
    return path.with_suffix(".log").read_text()


def check(ec2, s3, bucket, document):
    """Hold that there is one VM a task, in EC2 and in the record, and nothing left of the launch."""
    tasks = [str(task) for task in range(document["array"])]
    found = instances(ec2)
    assert Counter(tags(each)[requests.TASK] for each in found) == Counter(tasks)
    keys = [
        each["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket) for each in page["Contents"]
    ]
    (record,) = [key for key in keys if key.endswith("/job.json")]
    recorded = json.loads(s3.get_object(Bucket=bucket, Key=record)["Body"].read())
    assert recorded["launched"]
    assert {(each["id"], each["task"]) for each in recorded["instances"]} == {
        (each["InstanceId"], tags(each)[requests.TASK]) for each in found
    }
    assert not [key for key in keys if "/launch/" in key or "/.launching/" in key]


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_killed_and_run_again(document, cloud, ec2, s3, store, bucket, tmp_path):
    """Sixteen tasks, killed at two random points: sixteen VMs, even where client tokens are not honoured."""
    cloud.tokens = False
    document["array"] = 16
    log = killed_and_run_again(document, cloud, store, tmp_path, 2)
    check(ec2, s3, bucket, document)
    assert "Traceback" not in log
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in log


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tokens", [True, False])
def test_a_thousand_killed_at_twenty_points(document, cloud, ec2, s3, store, bucket, tmp_path, tokens):
    """A thousand tasks, killed at twenty random points and run again: a thousand VMs, each with its own task's tag."""
    cloud.tokens = tokens
    document["array"] = 1000
    log = killed_and_run_again(document, cloud, store, tmp_path, 20)
    check(ec2, s3, bucket, document)
    assert "Traceback" not in log


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_thousand_tasks_take_few_calls(bench, document, parse, cloud, ec2):
    """A thousand tasks in groups: at most 25 RunInstances calls."""
    document["array"] = 1000
    bench(document).launcher.launch(parse(document))
    assert cloud.calls["RunInstances"] <= 25
    assert Counter(tags(each)[requests.TASK] for each in instances(ec2)) == Counter(map(str, range(1000)))
