"""The same uploads, whatever lets them in: forms, presigned PUTs or a signing service, each on real stores.

Each test runs `agent push` as a process, as a VM or a person would, with a grant of the layout of a job's task. The
report names the stores and their versions; the upload form is held to the same tree in test_form_in_chromium.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.grant import Grant, dump, encode_name, parse
from agent.push import Pusher
from agent.upload import send
from provisioner.embedded import server
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import collect
from provisioner.jobs.record import JobRecord
from provisioner.plan import put_outputs
from provisioner.plan.layout import JobKeys
from provisioner.s3 import put_slots
from provisioner.s3.bucket import open_store
from provisioner.s3.signing import RequestSigner
from provisioner.s3url import StoreSpec
from provisioner.serve import key_store, token
from tests.support.grants import ROOT
from tests.support.service import Service
from tests.support.uploads import NAMES, content

KEYS = JobKeys("p", "hello-7f3k")
OUT, STATUS = KEYS.outputs("0", 1), KEYS.status("0", 1)
HOUR = timedelta(hours=1)
WAYS = {
    "post on seaweedfs": ("seaweed", "post"),
    "post on ceph rgw": ("rgw", "post"),
    "put on rclone": ("rclone", "put"),
    "put on seaweedfs": ("seaweed", "put"),
    "put on ceph rgw": ("rgw", "put"),
    "broker on seaweedfs": ("seaweed", "broker"),
}
LARGE = put_slots.MIN_PART_BYTES + (6 << 20)  # two parts of a PUT


class Way:
    """One way to upload: makes what `agent push` is told, and knows the store behind it."""

    def __init__(self, kind, running, bucket, folder):
        self.kind, self.running, self.folder = kind, running, folder
        spec = StoreSpec(bucket, "p", running.endpoint_url, running.region, "path")
        self.store = open_store(spec, access_key=running.access_key, secret_key=running.secret_key)
        self.service = None

    def grant(self, names=(), large=(), *, age=timedelta(0), life=HOUR):
        """A grant for `names` (a form's is for any), signed `age` ago. `large` names may take several PUTs."""
        now = datetime.now(timezone.utc) - age
        place, who = self.store.bucket, self.store.credentials
        if self.kind == "put":
            signing = put_slots.SlotSigner(place, who, now, life)
            begun = {name: (4 * LARGE, self.store.begin_upload(OUT + name)) for name in large}
            outputs = signing.target(OUT, [encode_name(name) for name in names], large=begun)
            status = signing.target(STATUS, put_outputs.STATUS_NAMES)
        else:
            outputs, status = (
                RequestSigner(place, who, now).sign_prefix(prefix, expires=now + life, max_bytes=5 << 30)
                for prefix in (OUT, STATUS)
            )
        return Grant("hello-7f3k", "0", 1, int((now + life).timestamp()), outputs, status, [], None, None)

    def options(self, names=(), large=(), change=lambda grant: grant, **more):
        """What a push is told of where to upload: a grant's file, or a service and a token's file."""
        if self.kind == "broker":
            return self.ask_service(more.get("life", HOUR))
        path = self.folder / "grant.json"
        path.unlink(missing_ok=True)
        path.write_text(dump(change(self.grant(names, large, **more))))
        return ["--grant", str(path)]

    def ask_service(self, life):
        """Start `provision serve`, and make a token for the task's two prefixes."""
        state = self.folder / "state"
        key = key_store.read_key(state / "serve" / "token.key", make=not (state / "serve" / "token.key").exists())
        if self.service is None:
            self.service = Service(self.running, f"s3://{self.store.bucket.name}/p", state, self.folder)
        ends = int((datetime.now(timezone.utc) + life).timestamp())
        made = token.mint(
            key, key_store.new_id(), self.store.bucket.name, token.Limits([OUT, STATUS], ["POST"], 5 << 30, ends)
        )
        (self.folder / "token").write_text(made)
        return ["--broker", self.service.url, "--token-file", str(self.folder / "token")]

    def pieces(self, name):
        """The sizes of the pieces of a file that the store has: parts of a PUT, or objects."""
        if self.kind != "put":
            return [item.size for item in self.store.list(OUT + name + ".parts/")]
        upload = dict(self.store.uploads("")).get(OUT + name)
        named = {"Bucket": self.store.bucket.name, "Key": OUT + name, "UploadId": upload}
        return [part["Size"] for part in self.store._client.list_parts(**named).get("Parts", [])] if upload else []

    def stored(self):
        """Every key below the bucket's outputs, and beside them."""
        return [item.key for item in self.store.list("") if not item.key.startswith(STATUS)]

    def collected(self):
        """What `provision collect` brings home, once the task has told its end."""
        self.store.put(STATUS + "succeeded", b"{}")
        now = datetime.now(timezone.utc)
        record = JobRecord("hello-7f3k", JobSpec("hello", RunSpec(("true",))), "local", now, now, now)
        folder = self.folder / "home"
        done = collect.collect(self.store, record, folder, lambda _: None)
        assert done.failed == {}
        return tree(folder)


@pytest.fixture(params=WAYS)
def way(request, tmp_path_factory):
    """Each way in turn, with a bucket of its own."""
    name, kind = WAYS[request.param]
    running = request.getfixturevalue(name)
    with server.connect(running) as client:
        bucket = f"uploads-{os.getpid()}-{next(_numbers)}"
        client.create_bucket(Bucket=bucket)
    made = Way(kind, running, bucket, tmp_path_factory.mktemp("way"))
    yield made
    if made.service is not None:
        made.service.kill()


_numbers = iter(range(10**6))


@pytest.fixture
def work(tmp_path):
    """A folder of files to push: `work(name=bytes)` makes them and returns it."""

    def make(files):
        for name, data in files.items():
            path = tmp_path / "work" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / "work"

    return make


def tree(folder):
    """Every file below a folder, by name."""
    return {
        os.path.relpath(os.path.join(where, name), folder): Path(where, name).read_bytes()
        for where, _, names in os.walk(folder)
        for name in names
    }


def start(options, folder, *words):
    """Start `agent push` of what is in `folder`."""
    argv = [
        sys.executable,
        "-m",
        "agent",
        "push",
        "--json",
        *options,
        "--base",
        ".",
        *words,
        *sorted(os.listdir(folder)),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "*"}
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def push(options, folder, *words):
    """Push what is in `folder`. Return the exit code, the last event and what it said to people."""
    with start(options, folder, *words) as process:
        out, err = process.communicate(timeout=100)
    assert "Traceback" not in err
    assert "Signature" not in err.replace("SignatureDoesNotMatch", "")
    lines = out.splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else None, err


def test_every_kind_of_file_comes_home_as_it_was(way, work):
    """Small, empty, deep and strangely named files are stored, listed in the manifest and collected as they were."""
    files = {name: content(name) for name in NAMES}
    code, done, err = push(way.options(NAMES), work(files))
    assert (code, done["files"], done["failed"]) == (0, len(NAMES), []), err
    assert sorted(way.stored()) == sorted(OUT + encode_name(name) for name in NAMES)
    manifest = json.loads(way.store.get(STATUS + "manifest.json"))
    assert manifest["complete"]
    assert {entry["verified"] for entry in manifest["entries"]} <= {"sha256", "etag"}
    assert way.collected() == files


@pytest.mark.e2e
def test_a_large_file_goes_up_in_pieces(way, work):
    """A file of more than one piece comes home whole; by PUT it is one object, put together of its parts."""
    files = {"big.bin": os.urandom(LARGE), "small": b"s"}
    code, _, err = push(way.options(files, large=["big.bin"]), work(files), "--split-over", "32M")
    assert code == 0, err
    assert way.collected() == files
    whole = OUT + "big.bin" in way.stored()
    assert whole is (way.kind == "put")
    assert way.store.uploads("") == []


def test_another_prefix_is_refused(way, work):
    """Whoever changes where a grant points stores nothing there, and is told so with exit code 5."""
    if way.kind == "broker":
        pytest.skip("the grant comes from the service; tests/unit/serve/test_app.py holds it to the token's prefixes")

    def elsewhere(grant):
        return grant._replace(outputs=grant.outputs._replace(prefix="p/other-job/out/0/1/"))

    code, done, _ = push(way.options(["a"], change=elsewhere), work({"a": b"a"}))
    assert (code, done["files"]) == (5, 0)
    assert way.stored() == []


def test_a_name_without_a_slot_is_refused_in_one_sentence(way, work):
    """By PUT a grant is for the names in it alone; the others are still stored."""
    if way.kind != "put":
        pytest.skip("a POST policy is for every name below its prefix")
    code, done, err = push(way.options(["a"]), work({"a": b"a", "b": b"b"}))
    assert (code, done["files"]) == (6, 1)
    assert "b: the grant has no slot for this name, only for those it lists\n" in err
    code, _, _ = push(way.options(["a"]), work({"c": b"c"}) / "", "b")
    assert way.stored() == [OUT + "a"]


def test_an_expired_grant_stops_at_once(way, work):
    """An expired grant is exit code 4 and the word, not ten tries."""
    began = time.monotonic()
    if way.kind == "broker":
        options = way.options(life=timedelta(seconds=1))
        time.sleep(1.1)  # there is only the clock to wait for
        began = time.monotonic()
    else:
        options = way.options(["a"], age=timedelta(minutes=30), life=timedelta(minutes=10))
    code, _, err = push(options, work({"a": b"a"}))
    assert (code, "expired" in err) == (4, True), err
    assert time.monotonic() - began < 20
    assert way.stored() == []


@pytest.mark.e2e
def test_a_killed_push_goes_on_where_it_stopped(way, work):
    """After SIGKILL the same command sends only the rest, and all of it comes home."""
    files = {f"{number:02}": os.urandom(200_000) for number in range(20)}
    options = way.options(files)
    with start(options, work(files), "--limit-rate", "1M") as process:
        until = time.monotonic() + 60
        while len(way.stored()) < 5:
            assert time.monotonic() < until
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    code, done, err = push(options, work({}))
    assert (code, done["files"]) == (0, 20), err
    assert 0 < done["sent"] <= 16
    assert way.collected() == files


@pytest.mark.e2e
def test_a_killed_push_of_a_large_file_sends_no_piece_twice(way, work, monkeypatch):
    """After SIGKILL the pieces that the store has are not sent again."""
    files = {"big.bin": os.urandom(LARGE)}
    options, folder = way.options(files, large=["big.bin"]), work(files)
    with start(options, folder, "--split-over", "32M", "--limit-rate", "40M") as process:
        until = time.monotonic() + 60
        enough = 1 if way.kind == "put" else 2  # one object may be stored and not yet in the journal
        while len(way.pieces("big.bin")) < enough:
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)  # the store tells nobody when a piece is complete
        process.send_signal(signal.SIGKILL)
    there = way.pieces("big.bin")
    if way.kind == "broker":
        code, _, err = push(options, folder, "--split-over", "32M")
        assert code == 0, err
    else:
        monkeypatch.chdir(folder)
        path = options[1]
        sent = []
        pusher = Pusher(parse(Path(path).read_text()), path + ".journal", split=32 << 20)
        pusher.progress = lambda _, size: sent.append(size)
        assert pusher.push(["big.bin"]).exit_code == 0
        pusher.manifest()
        assert sum(sent) <= LARGE - sum(there) + (max(there) if way.kind == "post" else 0)
    assert way.collected() == files


def test_an_upload_that_is_given_up_leaves_nothing(way, work):
    """The last event of an attempt ends what it began and did not complete: no parts are left to be paid for."""
    if way.kind != "put":
        pytest.skip("a form stores whole objects only")
    way.grant(["big.bin"], ["big.bin"])
    begun = dict(way.store.uploads(""))
    assert list(begun) == [OUT + "big.bin"]
    signing = put_slots.SlotSigner(way.store.bucket, way.store.credentials, datetime.now(timezone.utc), HOUR)
    status = signing.target(
        STATUS, put_outputs.STATUS_NAMES
    )  # not the grant's, which may have been signed a second ago
    status = status._replace(fields={**status.fields, "abort": signing.aborts(begun)})
    send(status, "failed", b"{}")
    assert way.store.uploads("") == []
