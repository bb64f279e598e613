"""Revocation: what it makes of a bucket policy, leaving others' statements alone, and what a failure means."""

import http.server
import threading
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from provisioner.errors import BadInput, Refused, Unreachable
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import revoke
from provisioner.jobs.record import JobRecord
from provisioner.jobs.revoke import Revoker
from provisioner.jobs.status import TaskStatus
from provisioner.s3 import bucket_policy
from provisioner.s3.signing import Bucket, Credentials

NOW = datetime(2026, 11, 23, 21, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
JOB, OTHER = "a" * 16, "b" * 16


def deny(job=JOB, until="20261124000000", kind="W", *resources):
    """A statement of ours."""
    listed = [f"arn:aws:s3:::bkt/{each}" for each in resources or ("p/j/out/0/1/*",)]
    sid = f"FreepostRevoked{until}{job}{kind}"
    return {"Sid": sid, "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": listed}


def test_statements_of_tasks_are_gathered_in_one():
    """Each task that ends adds its prefixes to the job's one statement; twice is once."""
    policy = None
    for task in ("0", "1", "1"):
        policy = bucket_policy.merge(policy, JOB, [deny(JOB, "20261124000000", "W", f"p/j/out/{task}/1/*")], NOW)
    (found,) = policy["Statement"]
    assert found["Resource"] == ["arn:aws:s3:::bkt/p/j/out/0/1/*", "arn:aws:s3:::bkt/p/j/out/1/1/*"]


def test_a_wider_prefix_takes_the_place_of_the_narrow_ones():
    """Revoking the whole job leaves no list of its tasks behind."""
    policy = bucket_policy.merge(None, JOB, [deny(JOB, "20261124000000", "W", "p/j/out/0/1/*")], NOW)
    policy = bucket_policy.merge(policy, JOB, [deny(JOB, "20261124000000", "W", "p/j/out/*")], NOW)
    assert policy["Statement"][0]["Resource"] == ["arn:aws:s3:::bkt/p/j/out/*"]


@pytest.mark.parametrize("single", [False, True])
def test_what_others_wrote_stays_as_it_is(single):
    """A policy of one statement, not in a list, and its Id survive; without ours it is as before."""
    theirs = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::1:root"}, "Action": "*", "Resource": "*"}
    policy = {"Version": "2008-10-17", "Id": "x", "Statement": theirs if single else [theirs]}
    merged = bucket_policy.merge(policy, JOB, [deny()], NOW)
    assert (merged["Version"], merged["Id"], merged["Statement"][0]) == ("2008-10-17", "x", theirs)
    assert bucket_policy.merge(merged, JOB, None, NOW) == {**policy, "Statement": [theirs]}


def test_statements_that_outlived_their_grants_are_swept():
    """Other jobs' statements stay until their grants are dead, and go with the next change."""
    live, dead = deny(OTHER, "20261123210001"), deny("c" * 16, "20261123205959")
    merged = bucket_policy.merge({"Statement": [live, dead]}, JOB, [deny()], NOW)
    assert merged["Statement"] == [live, deny()]
    assert bucket_policy.merge({"Statement": [dead]}, JOB, None, NOW) is None


def test_a_policy_that_would_be_too_large_is_refused_with_its_size():
    """S3's 20 KB are minded before the store is asked, and the message says whose statements fill it."""
    many = [deny(JOB, "20261124000000", "W", *(f"p/j/out/{number}/1/*" for number in range(1000)))]
    with pytest.raises(BadInput, match="20480") as told:
        bucket_policy.check_size(bucket_policy.merge(None, JOB, many, NOW))
    assert "1 of its 1 statements" in told.value.hint


def test_a_policy_that_the_store_wrote_back_its_own_way_is_the_same():
    """A list of one may come back as its element, and everybody as AWS: *."""
    ours = {"Statement": [deny()]}
    theirs = {"Statement": {**deny(), "Resource": deny()["Resource"][0], "Principal": {"AWS": "*"}}}
    assert bucket_policy.same(ours, theirs)
    assert not bucket_policy.same(ours, None)


@pytest.mark.parametrize("error", [Refused("no"), Unreachable("away")], ids=["refused", "unreachable"])
def test_what_a_store_answers_is_believed(error):
    """A failure at a job's end is told at once: the store itself tries again what may pass, and nothing else does."""
    asked, events = [], []

    def policy():
        asked.append(1)
        raise error

    store = SimpleNamespace(prefix="p", bucket=SimpleNamespace(name="bkt", region="eu-west-1"), policy=policy)
    revoker = Revoker(store, events.append, lambda: NOW, lambda: None, sleep=lambda _: pytest.fail("it waited"))
    later = NOW + timedelta(hours=1)
    record = JobRecord("j", JobSpec("j", RunSpec(("true",))), "local", NOW, later, later)
    revoker.finished(record, "0", 1)
    revoker.tick(record, [TaskStatus("0", 1, "succeeded", NOW)])
    assert len(asked) == 1
    assert [event.name for event in events] == ["notice"]


class Store:
    """A store whose forms are answered as `answers` say, one after the other, below each prefix."""

    prefix = "p"
    deleted = ()

    def __init__(self, url):
        self.bucket = Bucket("b", "us-east-1", url)

    def delete(self, keys):
        """Take note of it."""
        self.deleted = (*self.deleted, *keys)


def test_a_busy_store_ends_no_proof():
    """A store that has no time to say whether a Deny holds is asked again, within what is denied and outside of it."""
    answers = {"status": [503, 204, 503, 403], "proof": [503, 503, 204]}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(answers["proof" if b"/proof/" in body else "status"].pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words):
            pass

    record = JobRecord("j", JobSpec("j", RunSpec(("true",))), "local", NOW, NOW + HOUR, NOW + HOUR)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = Store(f"http://127.0.0.1:{server.server_address[1]}/b/")
        denial = revoke.Denial(store, record, NOW, lambda _: None)
        denial.prove("p/j/status/", Credentials("AKIAEXAMPLE", "secret"))
        server.shutdown()
    assert answers == {"status": [], "proof": []}
    assert store.deleted == ("p/j/status/.revoked", "p/j/proof/.revoked")
