"""Presigned PUTs as data: the signatures are botocore's, and what can't be presigned is refused."""

import dataclasses
import json
import socket
from datetime import datetime, timedelta, timezone

import pytest

from agent.errors import TransferError
from agent.grant import dump, parse
from agent.put_upload import PutUploader
from provisioner.errors import BadInput
from provisioner.job.spec import JobSpec, OutputSpec, RunSpec, SignerSpec
from provisioner.jobs.role_session import read_resources
from provisioner.plan.grants import GrantSigner
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.s3 import put_slots
from provisioner.s3.iam import one
from provisioner.s3.signing import Bucket, Credentials, RequestSigner
from provisioner.s3url import StoreSpec
from provisioner.userdata.render import render

NOW = datetime(2026, 11, 23, 20, 0, 0, 123456, tzinfo=timezone.utc)
BUCKETS = [
    Bucket("b", "eu-central-1", "https://b.s3.eu-central-1.amazonaws.com/"),
    Bucket("b", "us-east-1", "http://127.0.0.1:9000/b/"),
]
KEYS = ["p/a", "p/ü ä/日本語", "p/a+b&c=d?e#f;g", "p/quote\"s'~", "p/50%25", "p/new%0Aline"]
QUERIES = [{}, {"uploadId": "2~a+b/c="}, {"partNumber": "3", "uploadId": "x-y_z"}]


@pytest.mark.parametrize("token", [None, "token/with+signs=="])
@pytest.mark.parametrize("bucket", BUCKETS, ids=["virtual", "path"])
def test_signatures_are_those_of_botocore(bucket, token):
    """Every method, key and sub-resource, with and without a session, is signed as botocore does."""
    who = Credentials("AKIAEXAMPLE", "secret", token)
    signing = put_slots.SlotSigner(bucket, who, NOW, timedelta(hours=3))
    target = signing.target("", ["k"])
    for method in ("PUT", "GET", "POST", "HEAD", "DELETE"):
        for key in KEYS:
            for query in QUERIES:
                url = RequestSigner(bucket, who, NOW).presign(method, key, timedelta(hours=3), query=query)
                assert url.endswith("X-Amz-Signature=" + signing.sign(method, key, query))
                words = set(url.partition("?")[2].split("&"))
                assert set(target.fields["query"].split("&")) <= words


def spec(*outputs, **more):
    """A job of PUTs."""
    return JobSpec("j", RunSpec(("true",)), StoreSpec("b", "p", method="put"), outputs=outputs, **more)


def plan(made):
    """Its plan."""
    return make_plan(
        LaunchRequest(made, job="j-1", bucket=BUCKETS[1], prefix="p", provider="local", user_data_limit=16384, now=NOW)
    )


def test_the_url_of_a_slot_is_a_presigned_put():
    """The parts of a target put together are the URL that botocore makes."""
    who = Credentials("AKIAEXAMPLE", "secret")
    target = put_slots.SlotSigner(BUCKETS[0], who, NOW, timedelta(hours=3)).target("p/", ["ü a"])
    assert put_slots.slot_url(target, "ü a") == RequestSigner(BUCKETS[0], who, NOW).presign(
        "PUT", "p/ü a", timedelta(hours=3)
    )


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (OutputSpec("out/**"), "a pattern"),
        (OutputSpec("a[1]"), "a pattern"),
        (OutputSpec("a", bundle=True), "bundle"),
        (OutputSpec("a", checkpoint=True, max_size=1 << 30), "checkpoint"),
    ],
)
def test_what_cannot_be_presigned_is_refused_with_what_to_do(output, said):
    """Each such output is named in one line; a hint says what to do."""
    with pytest.raises(BadInput, match="presigned PUT") as told:
        plan(spec(output, OutputSpec("fine")))
    (fault,) = told.value.faults
    assert fault.startswith(f"{output.glob}: {said}")
    assert told.value.hint


def test_a_group_cannot_share_puts():
    """isolation: group is refused; many tasks are launched one by one."""
    with pytest.raises(BadInput, match="one task's object"):
        plan(spec(OutputSpec("a"), isolation="group"))
    many = make_plan(
        LaunchRequest(
            dataclasses.replace(spec(OutputSpec("a")), array=tuple(range(100))),
            job="j-1",
            bucket=BUCKETS[1],
            prefix="p",
            provider="ec2",
            user_data_limit=16384,
            now=NOW,
            groups=True,
        )
    )
    assert len(many.tasks) == 100


@pytest.mark.parametrize(
    ("size", "step", "count"),
    [(65 << 20, 64 << 20, 2), (50 << 30, 200 << 20, 256), (1 << 40, 4 << 30, 256), (5 << 40, 5 << 30, 1024)],
)
def test_how_files_are_cut(size, step, count):
    """Parts of 64 MiB to 5 GiB, as few signatures as that takes, and all of the file."""
    assert put_slots.part_layout(size) == (step, count)


def test_a_grant_of_puts_is_small_and_read_back():
    """An output costs less than 50 bytes of user-data, for what all URLs have in common is written once."""
    who = Credentials("AKIAEXAMPLE", "secret")
    costs = []
    for count in (10, 60):
        made = plan(spec(*(OutputSpec(f"results/{number}.csv") for number in range(count))))
        grant = GrantSigner(made, who, NOW).grant(made.tasks[0])
        assert parse(dump(grant)) == grant
        assert "secret" not in dump(grant)
        costs.append(len(render(made, made.tasks[0], grant).data))
    assert (costs[1] - costs[0]) / 50 < 50


def test_the_plan_names_each_object():
    """A dry run lists the keys that a VM may write, and no policy."""
    made = plan(spec(OutputSpec("a b"), OutputSpec("big", max_size=1 << 40)))
    (task,) = made.describe()["tasks"]
    assert task["slots"]["outputs"] == ["p/j-1/out/0/1/a b", "p/j-1/out/0/1/big"]
    assert "p/j-1/status/0/1/log/000001" in task["slots"]["status"]
    assert "policies" not in json.dumps(task)


def test_a_store_that_is_away_when_parts_are_put_together_is_tried_again():
    """No connection for the one patient request is a failure like any other: exit code 7, which may pass."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bucket = Bucket("b", "us-east-1", f"http://127.0.0.1:{port}/b/")
    signing = put_slots.SlotSigner(bucket, Credentials("AKIAEXAMPLE", "secret"), NOW, timedelta(hours=3))
    sender = PutUploader(signing.target("p/", ["k"]))
    with pytest.raises(TransferError) as told:
        sender.complete("p/k", "0" * 64, "&uploadId=x", {1: "e"}, 1)
    assert (told.value.exit, told.value.permanent) == (7, False)


def test_a_role_may_look_at_what_it_uploads_in_parts():
    """The agent's HEAD of a large output, when the answer was lost, is within the session's policy; others' aren't."""
    made = plan(spec(OutputSpec("a"), OutputSpec("big", max_size=1 << 40), signer=SignerSpec("arn:aws:iam::1:r")))
    assert read_resources(made, made.tasks[0]) == [one(made.bucket, "p/j-1/out/0/1/big")]
