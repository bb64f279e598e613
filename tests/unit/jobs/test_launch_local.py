"""The whole path, nothing mocked: from job.yaml to files on disk, by the real store, agent and local provider."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent import grant
from provisioner.userdata import parse

ROOT = Path(__file__).parents[3]
HELLO = ROOT / "examples/hello/job.yaml"


def write(folder, text, **files):
    """Write a job.yaml and the files beside it."""
    for name, content in files.items():
        (folder / name).write_text(content)
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def keys(opened, prefix=""):
    """Every key below a prefix."""
    return [entry.key for entry in opened.list(prefix)]


def test_hello_comes_home(provision, opened, tmp_path):
    """The first command of README: three files on disk, a line that names them, and a trail of events."""
    done = provision.launch(HELLO, "--collect", tmp_path / "results")
    assert done.code == 0, done.err
    found = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "results").rglob("*") if path.is_file())
    assert found == ["results/out/about.txt", "results/out/data/squares.csv", "results/out/hello.txt"]
    assert str(tmp_path / "results/out/hello.txt") in done.out
    assert "isolates nothing" in done.err
    events = {key.rsplit("/", 1)[1] for key in keys(opened) if "/status/0/1/" in key}
    assert events >= {"launched", "booted", "started", "manifest.json", "succeeded"}
    assert not [key for key in keys(opened) if ".launching" in key]


def test_an_array_computes(provision, tmp_path):
    """Four tasks estimate pi; each result lies in its task's folder, and the combined estimate is near."""
    done = provision.launch(ROOT / "examples/pi/job.yaml", "--set", "run.env.DARTS=20000", "--collect", tmp_path)
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
    combined = subprocess.run(
        [sys.executable, ROOT / "examples/pi/combine.py", tmp_path], capture_output=True, text=True, check=True
    )
    assert "3.1" in combined.stdout


@pytest.mark.e2e
def test_status_logs_and_collect_again(provision, tmp_path):
    """Afterwards status tells of success and files, logs has what the job printed, and collect fetches once."""
    launched = provision.launch(HELLO, "--wait", "--json")
    job = next(line["job"] for line in map(json.loads, launched.out.splitlines()) if line["event"] == "job")
    status = json.loads(provision("status", job, "--json").out)
    assert [(task["status"], task["exit_code"], task["upload"]["files"]) for task in status["tasks"]] == [
        ("succeeded", 0, 3)
    ]
    assert provision("logs", job).out == "Hello from a VM that holds no credentials\n"
    first = json.loads(provision("collect", job, tmp_path / "r", "--json").out.splitlines()[-1])
    again = json.loads(provision("collect", job, tmp_path / "r", "--json").out.splitlines()[-1])
    assert (first["already"], again["already"]) == (0, 3)
    assert provision("rm", job).code == 0
    assert provision("status", job).code == 9


@pytest.mark.usefixtures("provision")
def test_no_credential_reaches_the_vm(store, tmp_path):
    """Every rendered byte, all layers taken apart, is searched for the secret key and the operator's environment."""
    path = tmp_path / "user-data"
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", "render", str(HELLO), "--local"],
        capture_output=True, check=True, cwd=ROOT, env={**os.environ, "AWS_SECRET_ACCESS_KEY": "another-secret"},
    )  # fmt: skip
    path.write_bytes(done.stdout)
    config = parse.unpack(path.read_bytes())
    layers = [path.read_bytes(), gzip.decompress(path.read_bytes()), *(item.content for item in config.files)]
    layers.append(json.dumps(config.document).encode())
    for layer in layers:
        assert store.secret_key.encode() not in layer
        assert b"another-secret" not in layer
    assert store.access_key in grant.parse(config.file("/run/freepost/grant.json")).outputs.fields["x-amz-credential"]


def test_hello_is_small(provision):
    """The user-data of the first example, with the agent's core, is at most 13,000 bytes after gzip."""
    done = provision("render", HELLO, "--local", "--explain")
    assert int(done.out.split()[0]) <= 13_000, done.out


def test_dry_run_changes_nothing(provision, opened):
    """A plan shows prefixes, both policies in clear, times and provider; the bucket stays empty."""
    done = provision.launch(HELLO, "--dry-run", "--json")
    plan = json.loads(done.out)
    assert plan["provider"] == "local"
    policies = plan["tasks"][0]["policies"]
    assert ["starts-with", "$key", f"p/{plan['job']}/out/0/1/"] in policies["outputs"]["conditions"]
    assert ["content-length-range", 0, 1 << 20] in policies["status"]["conditions"]
    assert policies["outputs"]["expiration"] == plan["expires"] > plan["deadline"]
    assert keys(opened) == []
    assert "policies  until" in provision.launch(HELLO, "--dry-run").out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "job.yaml:1"),
        ("name: x\nrun: {comand: true}\n", "command"),
        ("name: x\nrun: {script: nowhere.sh}\n", "nowhere.sh"),
        (f"name: {'x' * 300}\nrun: {{command: 'true'}}\n", "name"),
        ("name: x\nrun: {command: 'true'}\noutputs: ['../secret']\n", "outputs[0]"),
        ("name: x\nrun: {command: 'true'}\noutputs: ['']\n", "outputs[0]"),
        ("", "empty"),
    ],
)
def test_bad_jobs_leave_nothing(provision, opened, tmp_path, text, says):
    """A bad job.yaml gives sentences and exit code 2, and nothing half made in the bucket."""
    done = provision.launch(write(tmp_path, text))
    assert done.code == 2
    assert says in done.err
    assert keys(opened) == []


def test_a_missing_job_file_is_told(provision, tmp_path):
    """No job.yaml at all: one sentence, exit code 2."""
    done = provision.launch(tmp_path / "none.yaml")
    assert done.code == 2
    assert "none.yaml" in done.err


def test_a_failing_job_says_its_own_exit_code(provision, tmp_path):
    """The job's exit code is in the event and in the message, and what it made is collected all the same."""
    job = write(tmp_path, "name: f\nrun: {command: 'echo x >a.txt; echo said; exit 7'}\noutputs: [a.txt]\n")
    done = provision.launch(job, "--collect", tmp_path / "r")
    assert done.code == 1
    assert "exit code 7" in done.err
    assert (tmp_path / "r/a.txt").read_text() == "x\n"


def test_an_output_that_is_not_there_fails_the_task(provision, tmp_path):
    """A job that ends well without its outputs did not succeed: nothing is lost in silence."""
    done = provision.launch(write(tmp_path, "name: f\nrun: {command: 'true'}\noutputs: [none.txt]\n"), "--wait")
    assert done.code == 1
    assert "none.txt" in done.err


def test_a_command_that_does_not_exist_is_told(provision, tmp_path):
    """A command that can't be started is a failed task with the reason, at once."""
    done = provision.launch(write(tmp_path, "name: f\nrun: {command: [/no/such/program]}\n"), "--wait")
    assert done.code == 1
    assert "could not be started" in done.err


@pytest.mark.e2e
def test_a_timeout_ends_the_job(provision, tmp_path):
    """A job that ignores SIGTERM is killed after its grace, and what it printed is uploaded."""
    command = "trap '' TERM; echo begun; while :; do sleep 1; done"
    text = f'name: t\nrun:\n  command: "{command}"\n  timeout: 1s\n  grace: 1s\n'
    done = provision.launch(write(tmp_path, text), "--wait", "--json")
    assert done.code == 1
    assert "timeout of 1 s" in done.out
    job = next(line["job"] for line in map(json.loads, done.out.splitlines()) if line["event"] == "job")
    assert provision("logs", job).out == "begun\n"


@pytest.mark.e2e
def test_inputs_are_pulled(provision, tmp_path):
    """A local input is staged in the bucket and lies in the job's directory, with its mode, before the job starts."""
    job = write(
        tmp_path,
        "name: i\nrun: {command: 'cat data.txt >copy.txt'}\ninputs: [data.txt]\noutputs: [copy.txt]\n",
        **{"data.txt": "content\n"},
    )
    done = provision.launch(job, "--collect", tmp_path / "r")
    assert done.code == 0, done.err
    assert (tmp_path / "r/copy.txt").read_text() == "content\n"


def test_large_job_files_are_spilled(provision, tmp_path):
    """A job file that doesn't fit the user-data goes by the bucket, pinned by its hash, and arrives executable."""
    (tmp_path / "big.sh").write_bytes(b"#!/bin/sh\nwc -c <big.sh >size.txt\nexit 0\n" + os.urandom(30_000))
    job = write(tmp_path, "name: s\nrun: {script: big.sh}\noutputs: [size.txt]\n")
    done = provision.launch(job, "--collect", tmp_path / "r")
    assert done.code == 0, done.err
    assert "the VM downloads it" in done.err
    assert int((tmp_path / "r/size.txt").read_text()) > 30_000


@pytest.mark.e2e
def test_a_job_pushes_by_itself(provision, tmp_path):
    """A job may call `agent push`; what it pushed is in the same manifest and is collected with the rest."""
    command = "echo 1 >one; agent push one; echo 2 >two"
    job = write(tmp_path, f"name: p\nrun: {{command: '{command}'}}\noutputs: [two]\n")
    done = provision.launch(job, "--collect", tmp_path / "r")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["one", "two"]


def test_retries_launch_the_next_attempt(provision, tmp_path):
    """With `retries`, watching launches attempt 2, under its own prefix, and the job succeeds."""
    text = "name: r\nrun: {command: 'test $FREEPOST_ATTEMPT = 2 && echo ok >ok'}\noutputs: [ok]\nretries: 1\n"
    done = provision.launch(write(tmp_path, text), "--collect", tmp_path / "r")
    assert done.code == 0, done.err
    assert (tmp_path / "r/ok").read_text() == "ok\n"


def test_a_wrong_bucket_is_found_before_anything_starts(provision, tmp_path, store, monkeypatch):
    """The operator's own post with the VM's policy fails first: nothing is launched."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    job = write(
        tmp_path,
        "name: w\nrun: {command: 'true'}\n"
        f"store: {{url: s3://no-such-bucket/p, endpoint_url: {store.endpoint_url}}}\n",
    )
    done = provision("launch", job, "--provider", "local")
    assert done.code == 9
    assert "no bucket" in done.err or "no such bucket" in done.err


@pytest.mark.e2e
@pytest.mark.parametrize("moment", [0.3, 0.9, 1.4, 1.9])
def test_a_killed_launch_goes_on(provision, opened, tmp_path, moment):
    """A launch killed at any moment and run again gives one job, each of whose tasks ran once."""
    job = write(tmp_path, "name: k\nrun: {command: 'echo x >x'}\noutputs: [x]\narray: 3\n")
    words = ["launch", str(job), "--local", "--set", f"store=s3://{provision.bucket}/p"]
    child = subprocess.Popen([sys.executable, "-m", "provisioner", *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    time.sleep(moment)  # the moment is what is tested
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = provision(*words, "--collect", tmp_path / "r")
    assert done.code == 0, done.err
    jobs = {key.split("/")[1] for key in keys(opened, "p/") if not key.startswith("p/.")}
    finished = [name for name in jobs if f"p/{name}/job.json" in keys(opened, f"p/{name}/")]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["0", "1", "2"]
    # A launch that had ended before it was killed was whole: then the second is another job.
    assert len(finished) == (1 if moment < 1 else len(finished)) <= 2
