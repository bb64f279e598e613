"""Whole jobs on stores that take no forms: from job.yaml to files on disk, by presigned PUTs."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from agent.check import slot_violations
from agent.errors import TransferError
from agent.http import FileSlice
from agent.upload import new_uploader
from provisioner.cli import app
from provisioner.embedded import server
from provisioner.plan import put_outputs
from provisioner.s3 import put_slots
from provisioner.s3.bucket import open_store
from provisioner.s3url import StoreSpec

pytestmark = pytest.mark.e2e

LARGE = put_slots.MIN_PART_BYTES + (6 << 20)
HEAD = len(put_outputs.STATUS_NAMES) - put_outputs.LOG_SLOTS  # the status names that are no log


@pytest.fixture(params=["rclone", "seaweed"])
def running(request):
    """A store that takes no forms, and one that is told to take none."""
    return request.getfixturevalue(request.param)


class Job:
    """A job.yaml on a store, and the operator's view of that."""

    def __init__(self, running, folder, bucket):
        self.running, self.folder, self.bucket = running, folder, bucket
        spec = StoreSpec(bucket, "p", running.endpoint_url, running.region, "path")
        self.store = open_store(spec, access_key=running.access_key, secret_key=running.secret_key)

    def write(self, command, outputs, *, method, **more):
        """Write job.yaml and return its path."""
        place = {
            "url": f"s3://{self.bucket}/p",
            "endpoint_url": self.running.endpoint_url,
            "addressing": "path",
            "region": self.running.region,
            "method": method,
        }
        run = {"command": command, "user": None, "timeout": "5m"}
        path = self.folder / "job.yaml"
        # To find out that SeaweedFS can't revoke takes 25 s; test_sessions_and_revocation.py holds that.
        revoke = "never" if isinstance(self.running, server.Running) else "on-finish"
        document = {"name": "puts", "store": place, "run": run, "outputs": outputs, "revoke": revoke, **more}
        path.write_text(json.dumps(document))
        return str(path)

    def keys(self, part=""):
        """The job's keys, without its name."""
        found = [item.key.split("/", 2)[2] for item in self.store.list("p/puts-")]
        return [key for key in found if key.startswith(part)]

    def text(self, key):
        """One object of the job."""
        return next(self.store.get(item.key) for item in self.store.list("p/puts-") if item.key.endswith(key)).decode()


@pytest.fixture
def job(running, tmp_path, monkeypatch, request):
    """A job on the store in turn, in a bucket of its own; the operator's keys are in the environment."""
    bucket = f"puts-{os.getpid()}-{abs(hash(request.node.name)) % 10**9}"
    with server.connect(running) as client:
        client.create_bucket(Bucket=bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", running.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", running.secret_key)
    monkeypatch.setenv("FREEPOST_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("no_proxy", "*")
    return Job(running, tmp_path, bucket)


def method_of(running):
    """What job.yaml says of the store: rclone is found out, SeaweedFS takes forms as well."""
    return "put" if isinstance(running, server.Running) else "auto"


def launch(job, *words, capfd):
    """Launch, wait and collect. Return the exit code and what was said."""
    code = app.main(["launch", *words, "--provider", "local", "--wait", "--collect", str(job.folder / "results")])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    assert "X-Amz-Signature" not in said.err + said.out
    return code, said.err


def test_a_whole_job(job, running, capfd):
    """Events, log, outputs small and large, manifest and results, with a grant that lies in the bucket."""
    command = (
        f"echo hello; head -c {LARGE} /dev/urandom >big.bin; sha256sum big.bin >sum; mkdir d; echo 42 >'d/an answer'"
    )
    outputs = ["sum", "d/an answer", {"glob": "big.bin", "max_size": "4GiB"}]
    code, said = launch(job, job.write(command, outputs, method=method_of(running)), capfd=capfd)
    assert code == 0, said
    assert ("the store takes no uploads by form: VMs are to upload by presigned PUTs" in said) is (
        method_of(running) == "auto"
    )
    results = job.folder / "results"
    assert (results / "d" / "an answer").read_text() == "42\n"
    assert os.path.getsize(results / "big.bin") == LARGE
    assert os.system(f"cd {results} && sha256sum --quiet -c sum") == 0
    assert job.text("log/000001") == "hello\n"
    assert {"status/0/1/booted", "status/0/1/launched", "status/0/1/started", "status/0/1/succeeded"} <= set(job.keys())
    assert job.keys("out/") == ["out/0/1/big.bin", "out/0/1/d/an answer", "out/0/1/sum"]
    assert job.store.uploads("") == []
    record = json.loads(job.text("job.json"))
    assert record["spec"]["store"]["method"] == "put"
    assert app.main(["rm", record["job"]]) == 0
    assert job.store.list("p/puts-") == []


def test_what_was_never_made_is_given_up(job, running, capfd):
    """A declared large output that the job doesn't make fails the task, and leaves no upload behind."""
    outputs = [{"glob": "never.bin", "max_size": "1GiB"}, "a"]
    code, said = launch(job, job.write("echo 1 >a", outputs, method="put"), capfd=capfd)
    assert code == 1
    assert "never.bin: no such file" in said
    assert job.keys("out/") == ["out/0/1/a"]
    assert job.store.uploads("") == []


def test_a_pattern_is_refused_before_anything_is_made(job, running, capfd):
    """A glob can't be presigned: one sentence for each, with what to do, and no event in the bucket."""
    path = job.write("true", ["out/**", {"glob": "a", "bundle": True}], method="put")
    assert app.main(["launch", path, "--provider", "local"]) == 2
    said = capfd.readouterr().err
    assert "out/**: a pattern; write each file's exact name, or let the job pack them: tar -czf out.tar.gz" in said
    assert "a: bundle; the name of a bundle isn't known before" in said
    assert job.keys() == []


def test_a_long_log_keeps_its_beginning_and_its_end(job, running, capfd, monkeypatch):
    """What the log slots can't hold is left out before the last one's end, which says how much."""
    command = "seq -f 'line %08.0f of a long log' 1500000"
    code, said = launch(job, job.write(command, [], method="put"), capfd=capfd)
    assert code == 0, said
    names = job.keys("status/0/1/log/")
    assert names == [f"status/0/1/log/{number:06}" for number in range(1, put_outputs.LOG_SLOTS + 1)]
    first, last = job.text("log/000001"), job.text(f"log/{put_outputs.LOG_SLOTS:06}")
    assert first.startswith("line 00000001 of")
    assert last.endswith("line 01500000 of a long log\n")
    note, rest = last.split("\n", 1)
    left_out = int(note.split()[1])
    assert (
        note == f"[freepost: {left_out} bytes of the log are left out here: "
        f"the grant has {put_outputs.LOG_SLOTS} slots for it]"
    )
    stored = sum(len(job.text(name.rpartition("status/")[2])) for name in names[:-1]) + len(rest)
    assert stored + left_out == 1_500_000 * len("line 00000001 of a long log\n")


def test_a_grant_in_the_bucket_is_pinned(job, running, monkeypatch, tmp_path):
    """Whoever replaces the grant in the bucket before the VM reads it is found out by its sha256."""
    from agent.console import CommandError
    from agent.remote_grant import load_own
    from provisioner.jobs import factory

    outputs = [{"glob": f"{number}.bin", "max_size": "1TiB"} for number in range(3)]
    spec = factory.read_spec(tmp_path / "job.yaml", [], "local") if job.write("true", outputs, method="put") else None
    ready = factory.prepare(spec, lambda _: None, local=False, provider="local")
    opened, launcher = ready.opened, ready.launcher
    plan = launcher.plan(spec)
    assert plan.remote_grant
    grant, made = launcher.render(plan, plan.tasks[0], use=True)
    assert len(made.data) <= plan.user_data_limit
    path = tmp_path / "grant.json"
    stub = next(file for file in made.files if file.section == "grant")
    assert b"slots" not in stub.content
    path.with_name(Path(stub.path).name).write_bytes(stub.content)
    monkeypatch.setenv("FREEPOST_GRANT", str(path))
    assert load_own()[0].outputs == grant.outputs
    ((key, data),) = made.extra_objects.items()
    opened.store.put(key, data.replace(b'"task"', b'"tusk"'))
    assert load_own()[0].outputs == grant.outputs  # a second boot finds the grant itself
    path.unlink()
    with pytest.raises(CommandError, match="is not what this VM was launched with") as ended:
        load_own()
    assert ended.value.args[1] == 8
    for key, upload in opened.store.uploads(""):
        opened.store.abort_upload(key, upload)


def test_check_tells_what_a_slot_would_not_take(job, running):
    """`agent check` knows a name without a slot, a file that is too large, and an ended grant."""
    from datetime import datetime, timedelta, timezone

    now = datetime.now(timezone.utc)
    signing = put_slots.SlotSigner(job.store.bucket, job.store.credentials, now, timedelta(hours=1))
    target = signing.target("p/", ["a"], max_bytes=10)
    assert slot_violations(target, "a", 10) == []
    assert slot_violations(target, "a", 11) == ["the file has 11 bytes; its slot takes 10"]
    assert slot_violations(target, "b", 1) == ["the grant has no slot for this name"]
    old = put_slots.SlotSigner(job.store.bucket, job.store.credentials, now - timedelta(hours=2), timedelta(hours=1))
    assert "expired" in slot_violations(old.target("p/", ["a"]), "a", 1)[0]


def test_a_file_that_changes_is_not_put_together(job, running, tmp_path):
    """A large file that is not what it was when its first part was sent is no object, and can still be stored."""
    from datetime import datetime, timedelta, timezone

    now = datetime.now(timezone.utc)
    signing = put_slots.SlotSigner(job.store.bucket, job.store.credentials, now, timedelta(hours=1))
    upload = job.store.begin_upload("p/big")
    target = signing.target("p/", ["big"], large={"big": (4 * LARGE, upload)})
    path = tmp_path / "big"
    path.write_bytes(os.urandom(LARGE))
    with path.open("r+b") as file, contextlib.ExitStack() as stack:
        sender = new_uploader(target, throttle=lambda _: os.utime(path))
        with pytest.raises(TransferError, match="changed"), contextlib.closing(sender):
            sender.post("big", FileSlice(file.fileno(), 0, LARGE))
        sender = stack.enter_context(contextlib.closing(new_uploader(target)))
        data = FileSlice(file.fileno(), 0, LARGE)
        assert sender.post("big", data)["verified"] == "etag"
        assert sender.post("big", data)["verified"] == "etag"  # put together before: seen by HEAD
        path.write_bytes(os.urandom(LARGE))
        with pytest.raises(TransferError, match="only a new attempt"):
            sender.post("big", FileSlice(file.fileno(), 0, LARGE))
    assert job.store.size("p/big") == LARGE


def test_a_signed_list_of_names_is_pushed_by_hand(job, running, tmp_path, capfd, monkeypatch):
    """`provision sign --put` makes a grant for the names given, which `agent push` uses as any other."""
    from agent.main import main as agent

    where = [f"s3://{job.bucket}/in/", "--endpoint-url", running.endpoint_url]
    assert app.main(["sign", *where, "--put", "a b", "--put", "c", "--max-bytes", "10"]) == 0
    (tmp_path / "grant.json").write_text(capfd.readouterr().out)
    for name, text in (("a b", "1"), ("c", "too long a text"), ("d", "1")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert agent(["push", "--grant", "grant.json", "a b", "c", "d"]) == 6
    said = capfd.readouterr().err
    assert "c: it has 15 bytes and its PUT takes 10" in said
    assert "d: the grant has no slot for this name" in said
    assert [item.key for item in job.store.list("in/")] == ["in/.freepost/manifest.json", "in/a b"]
    assert app.main(["sign", *where, "--put", "a", "--format", "curl"]) == 2
