"""The archive of the agent in the bucket: one object for all jobs, kept as long as a job names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from provisioner.errors import NotFound
from provisioner.jobs import gc
from provisioner.jobs.record import dump, job_ids, parse, read_record
from provisioner.packing import agent_archive
from provisioner.plan.layout import agent_root

HELLO = Path(__file__).parents[3] / "examples/hello/job.yaml"
# A job that calls the agent by no name that its text could be searched for.
CALLS = """
name: calls
run:
  command: 'n=gent; echo here > big; "a$n" push --bundle big && "a$n" --help > out.txt'
  timeout: 2m
outputs: [out.txt]
"""


def archives(opened):
    """The archives in the test's bucket."""
    return [entry.key for entry in opened.list(agent_root("p"))]


def write(folder, text):
    """Write a job.yaml."""
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def names(provision, *words):
    """The ids of the launched jobs."""
    done = provision(*words)
    assert done.code == 0, done.err
    return json.loads(done.out)["jobs"]


def test_any_script_may_call_the_agent(provision, opened, tmp_path):
    """A job whose text doesn't hold the agent's name pushes all the same: its rest came from the bucket."""
    done = provision.launch(write(tmp_path, CALLS), "--collect", tmp_path / "got")
    assert done.code == 0, done.err
    assert (tmp_path / "got/big").read_text() == "here\n"
    assert "agent push" in (tmp_path / "got/out.txt").read_text()
    assert "warning" not in done.err


def test_it_is_stored_once_and_named_by_each_job(provision, opened, tmp_path):
    """Two jobs share one object, named by version and sha256; no listing of jobs shows it."""
    for _ in range(2):
        assert provision.launch(HELLO, "--collect", tmp_path / "got").code == 0
    (key,) = archives(opened)
    assert key.endswith(f"-{hashlib.sha256(agent_archive.rest()).hexdigest()}.bz2")
    assert opened.get(key) == agent_archive.rest()
    found = job_ids(opened)
    assert len(found) == 2
    assert all(read_record(opened, job).agents == (key,) for job in found)
    assert ".agent" not in provision("jobs", "--store", f"s3://{opened.bucket.name}/p").out


def test_rm_keeps_it_and_gc_deletes_it_when_no_job_names_it(provision, opened, tmp_path):
    """A job's end takes nothing from others; what nobody names goes, but not while a launch may be about to."""
    assert provision.launch(HELLO, "--collect", tmp_path / "got").code == 0
    (key,) = archives(opened)
    (job,) = job_ids(opened)
    record = read_record(opened, job)
    now = datetime.now(timezone.utc)

    def rubbish(records, when, **more):
        return [each.id for each in gc.Finder(opened, {}, when).find(records, **more) if each.kind == "agent"]

    later = now + gc.UNRECORDED_FOR + timedelta(minutes=1)
    assert rubbish({job: record}, later) == []
    assert provision("rm", job).code == 0
    assert archives(opened) == [key]
    assert rubbish({}, now) == []
    assert rubbish({}, later, every=False) == [], "a record that can't be read may name it"
    assert rubbish({}, later) == [key]
    finder = gc.Finder(opened, {}, later)
    found = finder.find({})
    dataclasses.replace(finder, now=now).remove(found)
    assert archives(opened) == [key], "a launch has written it since it was found"
    finder.remove(found)
    assert archives(opened) == []


def test_a_launch_puts_right_what_became_of_it(provision, opened, tmp_path):
    """An archive that was changed or deleted meanwhile is written anew by the next launch, and by a retry."""
    assert provision.launch(HELLO, "--collect", tmp_path / "got").code == 0
    (key,) = archives(opened)
    opened.put(key, b"something else")
    assert provision.launch(HELLO, "--collect", tmp_path / "got").code == 0
    assert opened.get(key) == agent_archive.rest()
    fails = write(tmp_path, "name: fails\nrun: {command: 'exit 3'}\n")
    assert provision.launch(fails, "--wait").code == 1
    job = next(name for name in job_ids(opened) if name.startswith("fails-"))
    opened.delete([key])
    assert provision("retry", job).code == 0
    assert opened.get(key) == agent_archive.rest()
    assert provision("wait", job).code == 1


def test_a_retry_uploads_what_had_no_room(provision, opened, tmp_path):
    """Files that went to the bucket at launch lie there for a retry, too, whatever was deleted in between."""
    (tmp_path / "table").write_bytes(bytes(range(256)) * 4 + hashlib.sha256(b"").digest() * 300)
    text = "name: spills\nrun: {command: 'sha256sum table > out; exit 3', files: [table]}\noutputs: [out]\n"
    noise = b"".join(hashlib.sha256(bytes([number % 251, number // 251])).digest() for number in range(600))
    (tmp_path / "table").write_bytes(noise)
    assert provision.launch(write(tmp_path, text), "--wait").code == 1
    (job,) = job_ids(opened)
    (spilled,) = [entry.key for entry in opened.list(f"p/{job}/inputs/")]
    opened.delete([spilled])
    assert provision("retry", job).code == 0
    assert provision("wait", job).code == 1
    expected = f"{hashlib.sha256(noise).hexdigest()}  table\n"
    assert opened.get(f"p/{job}/out/0/2/out").decode() == expected


@pytest.mark.parametrize("become", ["changed", "shorter", "deleted"])
def test_without_the_rest_the_outputs_come_home(provision, opened, tmp_path, monkeypatch, become):
    """An archive that isn't what was launched with is refused before it runs; the job and its bundles go on without."""
    from provisioner.jobs.staging import Stager

    move = Stager.move

    def harm(stager, plan):
        move(stager, plan)
        data = agent_archive.rest()
        if become == "deleted":
            stager.store.delete([plan.archive.key])
        else:
            stager.store.put(plan.archive.key, data[:-9] + b"\0" * (9 if become == "changed" else 0))

    monkeypatch.setattr(Stager, "move", harm)
    text = (
        "name: alone\nrun: {command: 'echo 1 >a; agent push a; echo $? >code'}\noutputs: [{glob: '*', bundle: true}]\n"
    )
    done = provision.launch(write(tmp_path, text), "--collect", tmp_path / "got")
    assert done.code == 0, done.err
    assert "task 0 succeeded (warning: the rest of the agent can't be had: " in done.err
    assert (tmp_path / "got/a").read_text() == "1\n"
    assert (tmp_path / "got/code").read_text() == "2\n"
    (job,) = job_ids(opened)
    booted = json.loads(opened.get(f"p/{job}/status/0/1/booted"))
    said = "what lies in the bucket is not what" if become != "deleted" else "404"
    assert said in booted["warning"]
    assert "agent: this VM has only what runs its job" in provision("logs", job).out
    (row,) = json.loads(provision("status", job, "--json").out)["tasks"]
    assert row["warning"] == booted["warning"]


def test_by_hand(provision, opened, tmp_path):
    """run.agent decides: bucket though it would fit, inline or nothing."""
    loose = write(tmp_path, "name: hand\nrun: {command: 'true'}\n")
    plan = json.loads(provision.launch(loose, "--dry-run", "--json", "--set", "run.agent=bucket").out)
    assert plan["agent"]["from"] == "bucket"
    assert plan["agent"]["key"].startswith("p/.agent/")
    for words in (["launch", "--dry-run"], ["launch"], ["render"]):
        done = provision(words[0], loose, "--local", *words[1:], "--set", "run.agent=inline")
        assert done.code == 2
        assert "local takes 16384" in done.err
        assert "set run.agent to auto" in done.err
        assert "agent: " in done.err, "the ledger"
    assert archives(opened) == []


def test_records_of_the_version_before_are_read(opened, provision, tmp_path):
    """A record that names no archive, and a spec without run.agent, are what they were."""
    assert provision.launch(HELLO, "--collect", tmp_path / "got").code == 0
    (job,) = job_ids(opened)
    raw = json.loads(dump(read_record(opened, job)))
    del raw["agents"], raw["spec"]["run"]["agent"]
    record = parse(json.dumps(raw).encode(), "it")
    assert record.agents == ()
    assert record == dataclasses.replace(read_record(opened, job), agents=())
    with pytest.raises(NotFound):
        read_record(opened, "another")
