"""RefreshingCredentials grants: from the operator's mailbox to a job's uploads, on the real store."""

import json
import os
import re
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent import grant as grants
from agent.renew import Renewal, immutable_fields
from provisioner.errors import BadInput, Expiry
from provisioner.job.load import parse
from provisioner.job.spec import JobSpec, RunSpec, SignerSpec
from provisioner.jobs import gc, renew, role_session
from provisioner.jobs.factory import Factory, make_provider
from provisioner.jobs.index import StoreLocation
from provisioner.jobs.record import JobRecord
from provisioner.jobs.status import TaskStatus
from provisioner.jobs.stores import OpenStore, embedded_location, find_job
from provisioner.plan.grants import GrantSigner
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import UPLOAD_MARGIN
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.providers.base import Instance, Phase
from provisioner.s3.iam import below
from provisioner.s3.signing import Credentials
from tests.support.grants import gather, real_grant, run_agent, write_grant
from tests.support.guests import wait_until
from tests.support.interpreters import AGENT_PYTHONS

SCRIPT = """#!/bin/sh
mkdir -p out
for number in $(seq {seconds}); do
  echo line $number
  head -c 20000 /dev/urandom >out/$number
  [ $((number % 3)) != 0 ] || agent push --json out/$number || exit 9
  sleep 1
done
"""
INPUT = {"path": "run.sh", "url": "http://127.0.0.1/", "size": 1}
JOB = """
name: long
renew: {renew}
run:
  script: run.sh
  user: null
  timeout: 10m
checkpoint: 10s
outputs:
  - glob: out/**
    checkpoint: true
"""


def now():
    """The time, in UTC."""
    return datetime.now(timezone.utc)


def write_job(folder, policy_seconds, seconds):
    """Write a job that makes a file and a line each second, and pushes every third file itself."""
    (folder / "run.sh").write_text(SCRIPT.format(seconds=seconds))
    path = folder / "job.yaml"
    path.write_text(JOB.format(renew=policy_seconds))
    return path


def runs_by_short_policies(provision, opened, state_folder, tmp_path, policy_seconds, seconds):
    """Run such a job and hold that all came home and nobody noticed that policies ended."""
    done = provision.launch(write_job(tmp_path, policy_seconds, seconds), "--collect", tmp_path / "results", "--json")
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.out.splitlines()]
    job = next(each["job"] for each in events if each.get("event") == "job")
    assert not [each for each in events if each.get("event") == "not renewed"]
    assert len(list((tmp_path / "results/out").iterdir())) == seconds
    record = json.loads(opened.get(f"p/{job}/job.json"))
    console = (state_folder / "local" / record["instances"][0]["id"] / "console").read_text()
    assert console == ""
    log = provision("logs", job).out
    assert f"line {seconds}\n" in log
    assert "expired" not in log
    assert log.count('"event": "done"') == seconds // 3
    assert not opened.list(f"p/{job}/mail/")  # tidied up


@pytest.mark.e2e
def test_a_job_outlives_its_policies(provision, opened, state_folder, tmp_path):
    """A job of 16 seconds by policies of 5: outputs, log, checkpoints and the job's own pushes, and not one error."""
    runs_by_short_policies(provision, opened, state_folder, tmp_path, "5s", 16)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_two_minutes_by_policies_of_twenty_seconds(provision, opened, state_folder, tmp_path):
    """The same for two minutes, by policies of 20 seconds."""
    runs_by_short_policies(provision, opened, state_folder, tmp_path, "20s", 120)


@pytest.mark.e2e
def test_a_job_that_nobody_renews_tells_what_it_could_not_store(provision, state_folder, opened, tmp_path):
    """Its outputs wait until the deadline; then the console has the reason and each file, and the job is lost."""
    job = tmp_path / "job.yaml"
    run = "run: {command: 'sleep 6; mkdir out; echo a >out/a; echo b >out/b', timeout: 15s, grace: 1s}"
    job.write_text(f"name: left\nrenew: 5s\nvm: {{boot_budget: 1s}}\n{run}\noutputs: [out/**]\n")
    done = provision.launch(job)
    name = next(line.split()[1] for line in done.err.splitlines() if line.startswith("job "))
    token = json.loads(opened.get(f"p/{name}/job.json"))["instances"][0]["id"]
    home = state_folder / "local" / token
    using = make_provider("local", OpenStore(opened, embedded_location(None, "p")), {})
    until = time.monotonic() + 40
    while using.state([Instance(token, "0", 1)])[token].phase is Phase.RUNNING:
        assert time.monotonic() < until
        time.sleep(0.1)
    console = (home / "console").read_text()
    assert console.count("uploads wait for a renewed one") == 1
    assert "no renewed grant came until" in console
    assert re.search("^out/a: |^out/b: ", console, re.MULTILINE)
    assert not opened.list(f"p/{name}/out/")


class Mailbox:
    """An agent's folder with a grant of a few seconds whose mailbox nobody fills but the test."""

    def __init__(self, s3, bucket, folder):
        self.s3, self.bucket, self.folder = s3, bucket, folder
        (folder / "in").mkdir()
        for number in range(30):
            (folder / "in" / str(number)).write_bytes(os.urandom(20_000))

    def grant(self, number, seconds, until=20, **more):
        """A grant that ends in `seconds` and whose mailbox is letter `number`."""
        made = real_grant(self.s3, self.bucket, expires=seconds, **more)
        params = {"Bucket": self.bucket, "Key": f"job/mail/0/1/{number:06d}"}
        url = self.s3.generate_presigned_url("get_object", params, ExpiresIn=600)
        return made._replace(mailbox={"url": url, "until": grants.timestamp(int(time.time()) + until)})

    def put(self, number, grant):
        """Put a letter there."""
        self.s3.put_object(Bucket=self.bucket, Key=f"job/mail/0/1/{number:06d}", Body=grants.dump(grant).encode())

    def push(self, grant, *flags, check, **more):
        """Push the folder's 600 kB by this grant, at 100 kB a second."""
        path = write_grant(self.folder, grant)
        path.chmod(0o400)
        words = ["--grant", path, "--base", self.folder, "--limit-rate", "100K", *flags]
        return run_agent("push", *words, self.folder / "in", check=check, **more).stderr.decode()

    def kept(self):
        """How many files are stored."""
        return self.s3.list_objects_v2(Bucket=self.bucket, Prefix="job/out/0/1/")["KeyCount"]


@pytest.fixture
def mailbox(s3, bucket, tmp_path):
    """See Mailbox."""
    return Mailbox(s3, bucket, tmp_path)


@pytest.mark.e2e
def test_uploads_wait_for_a_late_renewal(mailbox, s3, bucket, tmp_path):
    """The grant ends midway: uploads are parked, which is said once, until a renewed one comes and replaces the file.

    Inputs that it adds are none.
    """
    first, waits = mailbox.grant(1, 2, until=60), tmp_path / "grant.json.lock"

    def renew_late():
        wait_until(lambda: waits.exists() and waits.stat().st_size, 30)
        mailbox.put(1, mailbox.grant(2, 60, inputs=[INPUT]))

    late = threading.Thread(target=renew_late)
    late.start()
    said = mailbox.push(first, check=0)
    late.join()
    assert mailbox.kept() == 30
    assert said.count("uploads wait for a renewed one") == 1
    path = tmp_path / "grant.json"
    assert path.stat().st_mode & 0o777 == 0o400
    assert grants.parse(path.read_bytes()).inputs == []
    assert grants.parse(path.read_bytes()).mailbox["url"].split("?")[0].endswith("/000002")
    tree, _ = gather(lambda key: s3.get_object(Bucket=bucket, Key=key)["Body"].read(), first)
    assert len(tree) == 30


@pytest.mark.e2e
def test_without_a_renewal_the_end_is_told(mailbox):
    """Nobody renews: when the deadline passes, exit 4, the reason, and which files are stored and which are not."""
    said = mailbox.push(mailbox.grant(1, 2, until=5), check=4)
    assert "no renewed grant came until" in said
    stored = said.count("stored before: in/")
    assert 0 < stored == mailbox.kept() < 30
    assert said.count(": not sent\n") + said.count(": the grant has expired") + said.count("out of time") >= 30 - stored


@pytest.mark.e2e
@pytest.mark.parametrize("wrong", ["prefix", "url", "job", "mailbox", "no mailbox", "odd mailbox", "no grant"])
def test_a_forged_renewal_is_refused(mailbox, wrong):
    """Another prefix, address or job, a mailbox elsewhere or none: refused, said, and nothing goes anywhere by it."""
    honest = mailbox.grant(2, 60)
    out = honest.outputs
    forged = {
        "prefix": honest._replace(outputs=out._replace(prefix="job/out/7/1/")),
        "url": honest._replace(outputs=out._replace(url=out.url.replace("127.0.0.1", "localhost"))),
        "job": honest._replace(job="other"),
        "mailbox": honest._replace(mailbox={**honest.mailbox, "url": "http://192.0.2.7/mail"}),
        "no mailbox": honest._replace(mailbox=None),
        "odd mailbox": honest._replace(mailbox=["url"]),
        "no grant": None,
    }[wrong]
    mailbox.s3.put_object(
        Bucket=mailbox.bucket, Key="job/mail/0/1/000001", Body=grants.dump(forged).encode() if forged else b"{]"
    )
    said = mailbox.push(mailbox.grant(1, 2, until=4), check=4)
    assert "a renewed grant is refused" in said
    assert mailbox.kept() < 30
    assert not mailbox.s3.list_objects_v2(Bucket=mailbox.bucket, Prefix="job/out/7/")["KeyCount"]


@pytest.mark.e2e
@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_older_letters_lead_to_the_newest(mailbox, python):
    """An agent that was away finds its way along expired letters to the one that holds, on each Python."""
    assert python, "this Python was asked for and is not here"
    mailbox.put(1, mailbox.grant(2, 1))
    mailbox.put(2, mailbox.grant(3, 1))
    mailbox.put(3, mailbox.grant(4, 60))
    said = mailbox.push(mailbox.grant(1, 2), "--limit-rate", "200K", python=python, check=0)
    assert mailbox.kept() == 30
    assert "Warning" not in said


def test_a_mailbox_that_has_expired_ends_it(mailbox):
    """When the presigned GET is dead itself there is nothing to wait for."""
    grant = mailbox.grant(1, 2, until=60)
    params = {"Bucket": mailbox.bucket, "Key": "job/mail/0/1/000001"}
    url = mailbox.s3.generate_presigned_url("get_object", params, ExpiresIn=1)
    said = mailbox.push(grant._replace(mailbox={**grant.mailbox, "url": url}), check=4)
    assert "the mailbox has expired, too" in said


def test_many_users_of_a_file_fetch_each_letter_once(mailbox, tmp_path):
    """Renewals of the same file, as in several processes, take turns: one asks, the others find what it wrote."""
    path = write_grant(tmp_path, mailbox.grant(1, 2))
    asked = []

    def source(grant):
        asked.append(grant)
        return grants.dump(mailbox.grant(2, 600)).encode() if len(asked) == 1 else None

    several = [Renewal(str(path), source, 0, print) for _ in range(4)]
    time.sleep(1.5)  # until two thirds of its life are over
    threads = [threading.Thread(target=each.renew, args=(True,)) for each in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 2  # the second finds that there is no third
    assert len({each.grant.expires for each in several}) == 1


def test_the_same_grant_renewed_has_no_difference(s3, bucket):
    """What differs is the signatures and the time alone."""
    assert immutable_fields(real_grant(s3, bucket, expires=5)) == immutable_fields(real_grant(s3, bucket, expires=500))


@pytest.fixture
def running(opened):
    """A job of renewed grants with two running tasks, and a Renewer for it."""
    spec = JobSpec("long", RunSpec(("true",), timeout=21 * 86_400), array=(0, 1), renew=3600)
    instances = tuple(Instance(f"i{task}", task, 1) for task in ("0", "1"))
    deadline = now() + timedelta(days=21)
    record = JobRecord("long-1", spec, "local", now(), deadline, deadline + UPLOAD_MARGIN, instances=instances)
    found = [TaskStatus(task, 1, "started", now()) for task in ("0", "1")]
    place = OpenStore(opened, StoreLocation(None, embedded=True))
    using = make_provider("local", OpenStore(opened, embedded_location(None, "p")), {})
    who = role_session.open_role_sessions(place.store, None, now)
    events = []
    return record, found, renew.Renewer(opened, using, now, events.append, lambda: who), events


def letters(opened):
    """The keys of the letters, below mail/."""
    return [entry.key.partition("/mail/")[2] for entry in opened.list("p/long-1/mail/")]


def test_letters_are_numbered_and_name_the_next(running, opened):
    """Each renewal is the next letter of each running task; its grant is for the same prefixes, and names the next."""
    record, found, renewer, _ = running
    assert 1700 < renewer.tick(record, found) <= 1800
    assert letters(opened) == ["0/1/000001", "1/1/000001"]
    assert 1700 < renewer.tick(record, found) <= 1800  # nothing is due
    assert letters(opened) == ["0/1/000001", "1/1/000001"]
    events = renewer.extend(record, found[:1], timedelta(days=7))
    assert letters(opened) == ["0/1/000001", "0/1/000002", "1/1/000001"]
    grant = grants.parse(opened.get("p/long-1/mail/0/1/000002"))
    assert grant[:3] == ("long-1", "0", 1)
    assert grant.outputs.prefix == "p/long-1/out/0/1/"
    assert "/mail/0/1/000003?" in grant.mailbox["url"]
    assert grants.timestamp(grant.expires) == events[0].data["expires"]
    assert abs(grant.expires - time.time() - 7 * 86_400) < 10
    over = [replace(found[0], event="succeeded"), found[1]]
    renewer.tick(record, over)
    assert letters(opened) == ["1/1/000001"]
    renew.drop(opened, record)
    assert letters(opened) == []


@pytest.mark.parametrize("stray", ["note", "0/note", "0/1/note", "0/x/000001", "0/1/000001/more", "0/1/", "0/1/²"])
def test_stray_keys_among_the_letters_are_passed_over(running, opened, stray):
    """Whatever else somebody put below mail/, the grants are renewed, and numbered as if it weren't there."""
    record, found, renewer, _ = running
    opened.put(f"p/long-1/mail/{stray}", b"")
    renewer.tick(record, found)
    renewer.extend(record, found[:1], None)
    assert sorted(letters(opened)) == sorted({stray, "0/1/000001", "0/1/000002", "1/1/000001"})


def test_renewal_ends_at_the_deadline(running, opened):
    """No policy outlives the deadline by more than the margin, and past it there is nothing to renew."""
    record, found, renewer, _ = running
    soon = replace(record, deadline=now() + timedelta(seconds=60))
    renewer.tick(soon, found)
    grant = grants.parse(opened.get("p/long-1/mail/0/1/000001"))
    assert grant.expires - time.time() < 60 + UPLOAD_MARGIN.total_seconds() + 5
    past = replace(record, deadline=now() - timedelta(seconds=1))
    assert renewer.tick(past, found) is None
    with pytest.raises(Expiry, match="deadline"):
        renewer.extend(past, found, None)


def test_a_session_bounds_its_grants_and_a_new_one_goes_on(running, opened):
    """Signed by a session, a grant ends with it; the same end again is not written; a fresh session is."""
    record, found, renewer, _ = running
    own = opened.credentials

    def by(ends):
        who = role_session.RoleSessions(Credentials(own.access_key, own.secret_key, None, ends), lambda *_: None, now)
        return replace(renewer, sessions=lambda: who)

    ends = now().replace(microsecond=0) + timedelta(seconds=300)
    first = by(ends)
    assert first.tick(record, found) < 151
    assert grants.parse(opened.get("p/long-1/mail/0/1/000001")).expires == int(ends.timestamp())
    first._due.clear()
    assert first.tick(record, found) <= 60
    assert letters(opened) == ["0/1/000001", "1/1/000001"]
    later = by(now() + timedelta(seconds=3000))
    later._due.clear()
    later.tick(record, found)
    assert letters(opened)[:2] == ["0/1/000001", "0/1/000002"]
    ended, events = by(now() - timedelta(seconds=1)), running[3]
    clock = [now(), now() + timedelta(seconds=61)]
    ended = replace(ended, clock=lambda: clock[0])
    for _ in range(2):
        ended._due.clear()
        ended.tick(record, found)
        clock.reverse()
    assert [event.name for event in events] == ["not renewed"]
    assert "credentials expired at" in events[-1].text


def test_credentials_are_found_again_before_they_end():
    """A watcher that runs for days signs with the session of the day."""
    clock = [now()]
    found = iter([Credentials("b", "s", "t", clock[0] + timedelta(hours=2))])
    first = Credentials("a", "s", "t", clock[0] + timedelta(hours=1))
    renewed = role_session.RefreshingCredentials(lambda: next(found), lambda: clock[0], first)
    assert renewed().access_key == "a"
    clock[0] += timedelta(minutes=55)
    assert renewed().access_key == "b"


def test_gc_and_rm_take_the_letters(running, opened, provision):
    """The letters of a job that is over are rubbish, and rm leaves none."""
    record, found, renewer, _ = running
    renewer.tick(record, found)
    finder = gc.Finder(opened, {}, record.expires + timedelta(days=1))
    assert [each.kind for each in finder.find({record.job: record})] == ["grant", "grant"]
    assert not gc.Finder(opened, {}, now()).find({record.job: record})


def test_what_cannot_be_extended_is_said(running, provision, tmp_path):
    """A job without renew, one that is over, and more than 7 days: each with a sentence and exit code 2."""
    record, found, renewer, _ = running
    with pytest.raises(BadInput, match="7 days"):
        renewer.extend(record, found, timedelta(days=8))
    with pytest.raises(BadInput, match="no task of long-1 is running"):
        renewer.extend(record, [replace(each, event="failed") for each in found], None)
    with pytest.raises(BadInput, match="name no mailbox"):
        renewer.extend(replace(record, spec=replace(record.spec, renew=None)), found, None)
    assert provision("extend", "nowhere").code == 9
    assert provision("extend", "nowhere", "--for", "soon").code == 2


@pytest.mark.e2e
def test_extend_by_command(provision, opened, tmp_path):
    """`launch` says what has to be done; `extend` does it for a running job and tells until when."""
    job = tmp_path / "job.yaml"
    job.write_text("name: long\nrenew: 1h\nrun:\n  command: sleep 60\n  timeout: 2m\n")
    done = provision.launch(job)
    assert done.code == 0, done.err
    assert "keep `provision watch long-" in done.err
    name = next(line.split()[1] for line in done.err.splitlines() if line.startswith("job "))
    done = provision("extend", name, "--for", "2d", "--json")
    assert done.code == 0, done.err
    (event,) = map(json.loads, done.out.splitlines())
    assert event["event"] == "renewed"
    assert opened.list(f"p/{name}/mail/")
    assert provision("terminate", name).code == 0
    assert not opened.list(f"p/{name}/mail/")


@pytest.mark.e2e
def test_a_retry_while_watching_is_signed_by_fresh_credentials(provision, opened, bucket, tmp_path):
    """A watcher whose first session is about to end launches the next attempt with the next one."""
    job = tmp_path / "job.yaml"
    job.write_text("name: again\nretries: 1\nrun:\n  command: 'false'\n")
    assert provision.launch(job, "--wait", "--set", "retries=0").code == 1
    (name,) = (folder for folder in opened.folders("p/") if not folder.startswith("."))
    found, record = find_job(name, embedded_location(bucket, "p"))
    found.store.credentials = replace(opened.credentials, expires=now() + timedelta(minutes=1))
    watcher = Factory(found, lambda _: None).watcher(make_provider("local", found, {}))
    record = watcher.retry(record, ["0"])
    assert record.attempts == {"0": 2}
    assert provision("terminate", name).code == 0


def spec_of(**more):
    """A spec from job.yaml's keys."""
    document = {"name": "j", "run": {"command": "true", "timeout": "21d"}, **more}
    return parse(document, base=Path(), where="job.yaml")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "at most 7d, the longest life of a policy, unless renew is set"),
        ({"renew": "1h", "expires": "2d"}, "expires beside renew"),
        ({"renew": "1h", "isolation": "group"}, "whose VMs share one grant"),
        ({"renew": "1h", "store": {"url": "s3://bucket", "method": "put"}}, "presigned PUTs are not renewed"),
        ({"renew": "8d"}, "5s to 7d"),
        ({"renew": "1s"}, "5s to 7d"),
    ],
)
def test_what_does_not_go_with_renewal_is_a_fault(keys, said):
    """job.yaml is refused with the reason, before anything is planned."""
    with pytest.raises(BadInput) as told:
        spec_of(**keys)
    assert said in " ".join(told.value.faults)


def test_three_weeks_by_policies_of_a_day(opened):
    """With renew a job may last longer than a policy; the mailbox and inputs' URLs live as long as SigV4 lets them."""
    spec = spec_of(renew="1d")
    plan = make_plan(
        LaunchRequest(
            spec, job="j-1", bucket=opened.bucket, prefix="p", provider="local", user_data_limit=16_384, now=now()
        )
    )
    assert plan.expires - plan.created == timedelta(days=1)
    assert plan.deadline - plan.created > timedelta(days=21)
    grant = GrantSigner(plan, opened.credentials, now()).grant(plan.tasks[0])
    assert "X-Amz-Expires=604800" in grant.mailbox["url"]
    assert grants.instant(grant.mailbox["until"]) == int(plan.deadline.timestamp())
    assert grants.parse(grants.dump(grant)) == grant


def test_groups_and_puts_are_refused_at_plan_time(opened):
    """A record or --set that gets past job.yaml's checks is refused by the plan; many tasks don't fall into groups."""
    words = {"job": "j", "bucket": opened.bucket, "prefix": "", "provider": "ec2", "user_data_limit": 9, "now": now()}
    base = JobSpec("j", RunSpec(("true",)), renew=60)
    with pytest.raises(BadInput, match="groups are not renewed"):
        make_plan(LaunchRequest(replace(base, isolation="group"), groups=True, **words))
    plan = make_plan(LaunchRequest(replace(base, array=tuple(range(60))), groups=True, **words))
    assert len(plan.tasks) == 60


def test_the_roles_policy_lets_the_mailbox_be_read(opened):
    """With signer, the session that signs may read the task's letters and no other's."""
    spec = JobSpec("j", RunSpec(("true",)), renew=3600, signer=SignerSpec("arn:aws:iam::1:role/r"))
    plan = make_plan(
        LaunchRequest(spec, job="j-1", bucket=opened.bucket, prefix="p", provider="x", user_data_limit=9, now=now())
    )
    assert role_session.read_resources(plan, plan.tasks[0]) == [below(plan.bucket, JobKeys("p", "j-1").mail("0", 1))]


def test_audit_names_the_mailbox(provision, tmp_path):
    """`render --audit` lists it among the secrets, with what it allows and until when."""
    job = tmp_path / "job.yaml"
    job.write_text("name: long\nrenew: 1h\nrun:\n  command: 'true'\n")
    done = provision("render", job, "--local", "--audit")
    assert done.code == 0, done.err
    assert "mailbox: presigned GET" in done.out
    assert "X-Amz-Signature" not in done.out
