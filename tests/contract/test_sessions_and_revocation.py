"""Sessions and bucket policies on Ceph RGW, where both are real; and what the embedded store makes of a revocation."""

import json
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError

from provisioner.cli import app
from provisioner.embedded import server
from provisioner.errors import Expiry, FreepostError, Refused
from provisioner.job.spec import JobSpec, RunSpec, SignerSpec
from provisioner.jobs import renew, revoke, role_session
from provisioner.jobs.record import JobRecord
from provisioner.jobs.status import TaskStatus
from provisioner.plan.grants import GrantSigner
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import StagedInput
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.providers.local import LocalProvider
from provisioner.s3 import bucket_policy, probe
from provisioner.s3.bucket import open_store
from provisioner.s3.signing import RequestSigner
from provisioner.s3url import StoreSpec
from tests.support.grants import run_agent, write_grant
from tests.support.rgw import SHORTEST_SESSION

HOUR = timedelta(hours=1)
JOB = "hello-7f3k"


def now():
    """The time, in UTC."""
    return datetime.now(timezone.utc)


@pytest.fixture
def s3(rgw):
    """A client of RGW with the operator's keys."""
    with server.connect(rgw) as client:
        yield client


def opened(running, bucket):
    """The bucket as the operator's commands see it."""
    place = StoreSpec(bucket, "p", running.endpoint_url, running.region, "path")
    return open_store(place, access_key=running.access_key, secret_key=running.secret_key), place


@pytest.fixture
def here(rgw, bucket):
    """The store on RGW, and where it is."""
    return opened(rgw, bucket)


def planned(store, spec, job=JOB):
    """The plan of a job."""
    return make_plan(
        LaunchRequest(
            spec, job=job, bucket=store.bucket, prefix="p", provider="local", user_data_limit=16384, now=now()
        )
    )


def post(target, key, body=b"made"):
    """Post a form and return the answer."""
    with requests.Session() as http:
        http.trust_env = False
        return http.post(target.url, data=target.form(key=key), files={"file": ("x", body)}, timeout=30)


def session_client(rgw, credentials):
    """A client that has the signing session's credentials themselves."""
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    return boto3.client(
        "s3",
        endpoint_url=rgw.endpoint_url,
        region_name=rgw.region,
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=config,
    )


def session_of(rgw, seconds, policy=None):
    """The credentials of a session of the role."""
    client = boto3.client(
        "sts",
        endpoint_url=rgw.endpoint_url,
        region_name=rgw.region,
        aws_access_key_id=rgw.access_key,
        aws_secret_access_key=rgw.secret_key,
        config=Config(parameter_validation=False),  # boto3 knows AWS's 900 s
    )
    asked = {"RoleArn": rgw.role, "RoleSessionName": "test", "DurationSeconds": seconds}
    return role_session.assume(client, {**asked, "Policy": policy} if policy else asked)


@pytest.fixture
def by_role(rgw, here):
    """A job whose signer is the role; its plan, and the session that signs for its task."""
    store, place = here
    spec = JobSpec("hello", RunSpec(("true",), timeout=600), store=place, signer=SignerSpec(rgw.role))
    plan = planned(store, spec)
    who = role_session.open_role_sessions(store, place, now)
    credentials = who.credentials(plan, plan.tasks[0])
    assert who.credentials(plan, plan.tasks[0]) is credentials
    return plan, credentials


def test_a_grant_signed_by_a_session_works(rgw, here):
    """The forms carry the session's token, and RGW stores what they bring."""
    store, _ = here
    plan = planned(store, JobSpec("hello", RunSpec(("true",))))
    credentials = session_of(rgw, 900)
    grant = GrantSigner(plan, credentials, now()).grant(plan.tasks[0])
    for target in (grant.status, grant.outputs):
        assert target.fields["x-amz-security-token"] == credentials.token
        assert post(target, target.prefix + "a").status_code == 204
        assert store.get(target.prefix + "a") == b"made"


def test_what_a_narrowed_session_signs_is_stored_by_put(rgw, here, by_role):
    """A presigned PUT of the role's narrowed session writes below the task's prefix, and is refused elsewhere."""
    store, _ = here
    plan, credentials = by_role
    for prefix, status in ((plan.keys.outputs("0", 1), 200), ("p/other/", 403)):
        url = RequestSigner(store.bucket, credentials, now()).presign("PUT", prefix + "k", timedelta(minutes=5))
        with requests.Session() as http:
            http.trust_env = False
            assert http.put(url, data=b"x", timeout=30).status_code == status
    assert [item.key for item in store.list("")] == [plan.keys.outputs("0", 1) + "k"]


def test_a_form_that_the_store_answers_and_drops_is_found_out(here, by_role):
    """RGW 16.2 answers 204 to a form of a narrowed session and keeps nothing; a launch must not believe it."""
    store, _ = here
    plan, credentials = by_role
    grant = GrantSigner(plan, credentials, now()).grant(plan.tasks[0])
    assert post(grant.outputs, grant.outputs.prefix + "a").status_code == 204
    assert store.list("") == []
    with pytest.raises(Refused, match="has not kept it"):
        probe.verify_stored(store, grant.outputs.prefix + "a")


def test_the_signing_credentials_themselves_can_do_no_more(rgw, by_role, bucket, here):
    """Whoever has the session's keys writes below the task's prefixes, and nothing else: no read, list or delete."""
    plan, credentials = by_role
    outputs = plan.keys.outputs("0", 1)
    store, _ = here
    client = session_client(rgw, credentials)
    client.put_object(Bucket=bucket, Key=outputs + "mine", Body=b"x")
    store.put("p/other/secret", b"x")
    attempts = [
        lambda: client.put_object(Bucket=bucket, Key="p/other/k", Body=b"x"),
        lambda: client.put_object(Bucket=bucket, Key=f"p/{JOB}/job.json", Body=b"x"),
        lambda: client.put_object(Bucket=bucket, Key=f"p/{JOB}/out/1/1/k", Body=b"x"),
        lambda: client.get_object(Bucket=bucket, Key="p/other/secret"),
        lambda: client.get_object(Bucket=bucket, Key=outputs + "mine"),
        lambda: client.list_objects_v2(Bucket=bucket),
        lambda: client.delete_object(Bucket=bucket, Key=outputs + "mine"),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()
    stranger = RequestSigner(store.bucket, credentials, now()).sign_prefix(
        "p/other/", expires=now() + HOUR, max_bytes=99
    )
    assert post(stranger, "p/other/k").status_code == 403
    assert [item.key for item in store.list("")] == [outputs + "mine", "p/other/secret"]


def test_the_store_refuses_a_form_after_its_sessions_end(rgw, here):
    """A policy of an hour, signed by a session of seconds, dies with the session: the store says so, not we."""
    store, _ = here
    credentials = session_of(rgw, SHORTEST_SESSION)
    form = RequestSigner(store.bucket, credentials, now()).sign_prefix("p/", expires=now() + HOUR, max_bytes=99)
    assert post(form, "p/before").status_code == 204
    time.sleep(max(0, (credentials.expires - now()).total_seconds()) + 0.1)  # there is only the clock to wait for
    answer = post(form, "p/after")
    assert answer.status_code == 403
    assert [item.key for item in store.list("")] == ["p/before"]


@pytest.mark.e2e
def test_an_upload_outlives_the_sessions_that_sign_for_it(rgw, here, tmp_path):
    """Sessions of nine seconds: each renewed grant is signed by the next, and 24 seconds of uploads notice nothing."""
    store, _ = here
    spec = JobSpec("hello", RunSpec(("true",)), renew=3600)
    first = session_of(rgw, 9)
    place = {"job": JOB, "bucket": store.bucket, "prefix": "p", "provider": "local", "user_data_limit": 16384}
    plan = make_plan(LaunchRequest(spec, now=now(), credentials_expire=first.expires, **place))
    grant = GrantSigner(plan, first, now()).grant(plan.tasks[0])
    assert grant.expires - time.time() <= 9
    used = []

    def sign():
        used.append(session_of(rgw, 9))
        return role_session.RoleSessions(used[-1], lambda *_: None, now)

    record = JobRecord(JOB, spec, "local", now(), plan.deadline, plan.grants_end)
    failures = []
    renewer = renew.Renewer(store, LocalProvider(tmp_path), now, failures.append, sign)
    done = threading.Event()

    def watch():
        while not done.wait(renewer.tick(record, [TaskStatus("0", 1, "started", now())])):
            pass

    operator = threading.Thread(target=watch)
    operator.start()
    (tmp_path / "in").mkdir()
    for number in range(48):
        (tmp_path / "in" / str(number)).write_bytes(bytes([number]) * 10_000)
    words = ["--base", tmp_path, "--limit-rate", "20K"]
    try:
        said = run_agent("push", "--grant", write_grant(tmp_path, grant), *words, tmp_path / "in", check=0).stderr
    finally:
        done.set()
        operator.join()
    assert b"expired" not in said
    assert not failures
    assert len(used) >= 3
    assert len({each.access_key for each in used}) == len(used)
    assert len(store.list(grant.outputs.prefix)) == 48


def test_a_session_shorter_than_the_job_is_refused_before_anything_is_asked(here, rgw):
    """signer.duration is checked against the deadline, and both times are named."""
    store, place = here
    spec = JobSpec("hello", RunSpec(("true",), timeout=7200), signer=SignerSpec(rgw.role, duration=900))
    who = role_session.open_role_sessions(store, place, now)
    with pytest.raises(Expiry, match=r"expire at .* needs them until"):
        who.check(spec, now(), now() + timedelta(seconds=spec.deadline))


def test_a_role_that_may_not_be_assumed_is_named(here, rgw):
    """A wrong ARN ends the launch with the role in the sentence and no request or key."""
    store, place = here
    spec = JobSpec("hello", RunSpec(("true",), timeout=600), signer=SignerSpec(rgw.role + "x"))
    plan = planned(store, spec)
    with pytest.raises(Exception, match="assume the role") as told:
        role_session.open_role_sessions(store, place, now).credentials(plan, plan.tasks[0])
    assert rgw.secret_key not in repr(told.value)


def test_the_role_is_assumed_with_the_credentials_of_the_day(here, rgw):
    """When the operator's first session has ended, the next one asks for the sessions that sign."""
    store, place = here
    spec = JobSpec("hello", RunSpec(("true",), timeout=600), store=place, signer=SignerSpec(rgw.role))
    plan = planned(store, spec)
    ended = open_store(place, access_key="ended", secret_key="ended")
    who = role_session.open_role_sessions(ended, place, now)
    with pytest.raises(FreepostError):
        who.credentials(plan, plan.tasks[0])
    assert replace(who, own=store.credentials).credentials(plan, plan.tasks[0]).token


def recorded(spec=None):
    """A job's record, with grants that live for an hour."""
    made = spec or JobSpec("hello", RunSpec(("true",)))
    return JobRecord(JOB, made, "local", now(), now() + HOUR, now() + HOUR)


def form(store, prefix, seconds=3600):
    """A form of the operator's own key, like a VM's."""
    ends = now() + timedelta(seconds=seconds)
    return RequestSigner(store.bucket, store.credentials, now()).sign_prefix(prefix, expires=ends, max_bytes=99)


def test_revocation_ends_a_form_that_was_taken_a_second_before(here):
    """After revoke the same form is refused for every task, results can be read, and --undo brings it back."""
    store, _ = here
    keys = JobKeys("p", JOB)
    record = recorded()
    target = form(store, keys.outputs("0", 1))
    other = form(store, "p/other-job/out/0/1/")
    assert post(target, target.prefix + "a").status_code == 204
    assert revoke.revoke(store, record, now()).data["changed"]
    assert post(target, target.prefix + "b").status_code == 403
    assert post(form(store, keys.status("0", 1)), keys.event("0", 1, "failed")).status_code == 403
    assert post(other, other.prefix + "a").status_code == 204
    assert store.get(target.prefix + "a") == b"made"
    before = store.policy()
    assert not revoke.revoke(store, record, now()).data["changed"]
    assert store.policy() == before
    assert revoke.undo(store, record, now()).data["changed"]
    assert not revoke.undo(store, record, now()).data["changed"]
    assert store.policy() is None
    assert post(target, target.prefix + "c").status_code == 204


def test_revocation_leaves_what_stands_in_the_policy(here, bucket):
    """Somebody else's statement is there before, while and after."""
    store, _ = here
    theirs = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject"}
    theirs["Resource"] = f"arn:aws:s3:::{bucket}/kept/*"
    store.set_policy(json.dumps({"Version": "2012-10-17", "Statement": [theirs]}))
    revoke.revoke(store, recorded(), now())
    found = json.loads(store.policy())["Statement"]
    assert theirs in found
    assert len(found) == 3
    revoke.undo(store, recorded(), now())
    assert json.loads(store.policy())["Statement"] == [theirs]


def test_a_task_that_ends_is_revoked_alone(here):
    """revoke: on-finish forbids the attempt that is over; the next attempt and other tasks go on."""
    store, _ = here
    keys = JobKeys("p", JOB)
    events = []
    revoker = revoke.Revoker(store, events.append, now, lambda: store.credentials)
    revoker.finished(recorded(), "0", 1)
    revoker.finished(recorded(), "1", 1)
    revoker.tick(recorded(), stand("0", "1"))
    for task, attempt, status in (("0", 1, 403), ("1", 1, 403), ("0", 2, 204), ("2", 1, 204)):
        target = form(store, keys.outputs(task, attempt))
        assert post(target, target.prefix + "a").status_code == status
    assert [event.name for event in events] == ["revoked", "revoked"]
    revoker.finished(recorded(), "5", 1)
    revoker.tick(recorded(replace(recorded().spec, revoke="never")), stand("5"))
    target = form(store, keys.outputs("5", 1))
    assert post(target, target.prefix + "a").status_code == 204


def stand(*tasks):
    """That these tasks have succeeded, and another runs."""
    return [*(TaskStatus(task, 1, "succeeded", now()) for task in tasks), TaskStatus("9", 1, "started", now())]


def test_what_fails_is_tried_again_and_told_once(here, rgw):
    """A store that is away for a while stops nothing: the next look revokes what was missed."""
    store, place = here
    events = []
    away = open_store(replace(place, endpoint_url="http://127.0.0.1:1"), access_key="a", secret_key="b")
    revoker = revoke.Revoker(away, events.append, now, lambda: store.credentials, sleep=lambda _: None)
    revoker.finished(recorded(), "0", 1)
    for _ in range(2):
        revoker.tick(recorded(), stand("0"))
    assert [event.name for event in events] == ["notice"]
    revoker.store = store
    revoker.tick(recorded(), stand("0"))
    assert [event.name for event in events] == ["notice", "revoked"]
    target = form(store, JobKeys("p", JOB).outputs("0", 1))
    assert post(target, target.prefix + "a").status_code == 403


def test_a_full_policy_makes_way_for_one_deny_of_the_whole_job(here, monkeypatch):
    """Tasks that no longer fit are revoked together, by a shorter statement, once all of them are over."""
    store, _ = here
    events = []
    revoker = revoke.Revoker(store, events.append, now, lambda: store.credentials)
    for task in range(40):
        revoker.finished(recorded(), str(task), 1)
    monkeypatch.setattr(bucket_policy, "LIMIT", 3000)
    revoker.tick(recorded(), stand("0"))
    assert "3000" in events[-1].text
    assert store.policy() is None
    revoker.tick(recorded(), stand("0")[:1])
    assert events[-1].name == "revoked"
    target = form(store, JobKeys("p", JOB).outputs("39", 1))
    assert post(target, target.prefix + "a").status_code == 403


def test_a_refusal_everywhere_is_no_proof(here, bucket):
    """A store that refuses forms outside the denied prefixes, too, has shown nothing."""
    store, _ = here
    everywhere = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/p/*",
    }
    store.set_policy(json.dumps({"Version": "2012-10-17", "Statement": [everywhere]}))
    with pytest.raises(Refused, match="proves nothing"):
        revoke.revoke(store, recorded(), now())


def test_a_grant_that_lies_apart_is_revoked_and_an_input_elsewhere_is_named(here):
    """Presigned reads below the job are refused, too; of inputs outside it the command says that they live on."""
    store, _ = here
    own = f"p/{JOB}/grants/0/1.json"
    for key in (own, "p/data/a.csv"):
        store.put(key, b"x")
    elsewhere = StagedInput("a.csv", "p/data/a.csv", "0644", 1, None)
    told = revoke.revoke(store, replace(recorded(), inputs=(elsewhere,)), now()).text
    assert "nor reads of inputs outside the job (p/data/a.csv)" in told
    for key, status in ((own, 403), ("p/data/a.csv", 200)):
        url = RequestSigner(store.bucket, store.credentials, now()).presign("GET", key, HOUR)
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(url, timeout=30).status_code == status


def test_a_policy_that_somebody_keeps_changing_is_not_hammered(here, monkeypatch):
    """What was swallowed is written again after growing pauses, a few times, and then told."""
    store, _ = here
    monkeypatch.setattr(store, "set_policy", lambda _: None)
    pauses = []
    with pytest.raises(Refused, match="not as it was written"):
        revoke.revoke(store, recorded(), now(), sleep=pauses.append)
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2]


def test_the_embedded_store_is_found_out(store):
    """SeaweedFS takes the Deny and applies it to no form: the command says so, with when the grants end."""
    with server.connect(store) as client:
        client.create_bucket(Bucket="test-revocation")
    here, _ = opened(store, "test-revocation")
    with pytest.raises(Refused, match="doesn't apply bucket policies to POST") as told:
        revoke.revoke(here, recorded(), now(), sleep=lambda _: None)
    assert "forms live until" in told.value.hint
    assert [item.key for item in here.list("")] == []
    revoke.undo(here, recorded(), now())
    assert here.policy() is None


@pytest.fixture
def job(rgw, bucket, tmp_path, monkeypatch):
    """A job.yaml that keeps its results on RGW, with more keys if asked; the operator's keys are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(tmp_path / "state"))

    def written(method="auto", **more):
        document = {
            "name": "hello",
            "store": {
                "url": f"s3://{bucket}/p",
                "endpoint_url": rgw.endpoint_url,
                "addressing": "path",
                "method": method,
            },
            "run": {"command": "mkdir out; echo 42 > out/answer", "user": None, "timeout": "10m"},
            "outputs": ["out/**"],
            **more,
        }
        path = tmp_path / "job.yaml"
        path.write_text(json.dumps(document))
        return str(path)

    return written


@pytest.mark.parametrize("command", ["collect", "terminate", "rm"])
def test_a_job_that_nobody_watched_is_revoked_later(job, bucket, rgw, here, tmp_path, capfd, command):
    """collect, terminate and rm end the grants of what is over, too; the first two leave the next attempt's alone."""
    assert app.main(["launch", job(), "--provider", "local"]) == 0
    store, _ = here
    (name,) = (folder for folder in store.folders("p/") if not folder.startswith("."))
    keys = JobKeys("p", name)
    until = time.monotonic() + 60
    while not any(item.key == keys.event("0", 1, "succeeded") for item in store.list(keys.status_root)):
        assert time.monotonic() < until
        time.sleep(0.1)  # the store tells nobody of a new object
    forms = [form(store, keys.outputs("0", attempt)) for attempt in (1, 2)]
    assert post(forms[0], forms[0].prefix + "late").status_code == 204
    at = ["--store", f"s3://{bucket}/p", "--endpoint-url", rgw.endpoint_url]
    words = [command, name, *([str(tmp_path / "results")] if command == "collect" else []), *at]
    assert app.main(words) == 0
    said = capfd.readouterr().err
    assert "revoked" in said
    codes = [post(each, each.prefix + "later").status_code for each in forms]
    assert codes == [403, 403 if command == "rm" else 204]
    capfd.readouterr()


@pytest.mark.e2e
def test_a_job_is_revoked_when_it_is_over(job, rgw, bucket, here, tmp_path, capfd):
    """From launch to results, after which the grant is dead by default; the command revoke is there for the rest."""
    results = tmp_path / "results"
    assert app.main(["launch", job(), "--provider", "local", "--wait", "--collect", str(results)]) == 0
    assert (results / "out" / "answer").read_text() == "42\n"
    assert "its grant is revoked" in capfd.readouterr().err
    store, _ = here
    name = next(folder for folder in store.folders("p/") if not folder.startswith("."))
    target = form(store, JobKeys("p", name).outputs("0", 1))
    other = form(store, JobKeys("p", name).outputs("0", 2))
    assert (post(target, target.prefix + "late").status_code, post(other, other.prefix + "k").status_code) == (403, 204)
    at = ["--store", f"s3://{bucket}/p", "--endpoint-url", rgw.endpoint_url]
    assert app.main(["revoke", name, *at]) == 0
    assert post(other, other.prefix + "k").status_code == 403
    assert "can't stop what is stored" in capfd.readouterr().err
    assert app.main(["revoke", name, "--undo", *at]) == 0
    assert post(target, target.prefix + "late").status_code == 204


@pytest.mark.e2e
def test_a_revoked_job_takes_no_retry_until_it_is_undone(job, rgw, bucket, here, capfd):
    """A retry whose results the store would refuse is refused itself, with the command that allows it again."""
    path = job(run={"command": "exit 1", "user": None, "timeout": "10m"}, revoke="never")
    assert app.main(["launch", path, "--provider", "local", "--wait"]) == 1
    store, _ = here
    name = next(folder for folder in store.folders("p/") if not folder.startswith("."))
    at = ["--store", f"s3://{bucket}/p", "--endpoint-url", rgw.endpoint_url]
    assert app.main(["revoke", name, *at]) == 0
    capfd.readouterr()
    assert app.main(["retry", name, *at]) == 5
    assert f"provision revoke {name} --undo" in capfd.readouterr().err
    assert app.main(["revoke", name, "--undo", *at]) == 0
    assert app.main(["retry", name, *at]) == 0
    assert app.main(["wait", name, *at]) == 1


def test_a_launch_by_a_role_finds_out_before_a_vm_is_paid_for(job, rgw, capfd):
    """With a signer and forms on RGW 16.2 the launch ends with the reason and what to do, and starts nothing."""
    assert app.main(["launch", job("post", signer=rgw.role), "--provider", "local"]) == 5
    said = capfd.readouterr().err
    assert "has not kept it" in said
    assert "launched task" not in said


@pytest.mark.e2e
def test_a_launch_by_a_role_goes_by_put_where_forms_are_dropped(job, rgw, tmp_path, capfd):
    """Left to itself the same launch finds out that forms are not kept, and its VM uploads by presigned PUTs."""
    results = tmp_path / "results"
    words = ["launch", job(signer=rgw.role, outputs=["out/answer"]), "--provider", "local", "--wait"]
    code = app.main([*words, "--collect", str(results)])
    said = capfd.readouterr().err
    assert code == 0, said
    assert "has not kept it: VMs are to upload by presigned PUTs" in said
    assert (results / "out" / "answer").read_text() == "42\n"
