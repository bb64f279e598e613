"""A spot VM whose end is near: what it has is stored in time, and its job is told to be interrupted."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.grant import timestamp
from provisioner.packing import agent_archive
from provisioner.packing.rename import short_names
from provisioner.process import read_proc_file
from tests.support.grants import reader, real_grant, write_grant
from tests.support.interpreters import AGENT_PYTHONS
from tests.support.metadata import metadata
from tests.support.packed import unpack

ROOT = Path(__file__).parents[3]
RUN = (
    "from agent import imds, spot; imds.{HOST} = {host!r}; spot.{EVERY} = {every}; spot.{RESERVE} = {reserve};"
    "from agent.main import main; raise SystemExit(main(['run']))"
)


@pytest.fixture
def cloud():
    """A metadata service without a notice."""
    with metadata({}) as server:
        yield server


class Vm:
    """`agent run` as a spot VM runs it, on the real store."""

    def __init__(self, s3, bucket, folder):
        self.read, self.folder = reader(s3, bucket), folder
        self.grant = real_grant(s3, bucket)
        self.s3, self.bucket = s3, bucket
        self.process, self.source = None, ROOT

    def run(self, host, script, every=0.2, reserve=2, python=sys.executable, **more):
        """Start it: this checkout, or what is packed into a VM."""
        task = {
            "command": ["sh", "-c", script],
            "env": {},
            "user": None,
            "timeout": 60,
            "grace": 20,
            "workdir": str(self.folder / "work"),
            "outputs": [{"glob": "out*", "bundle": False}],
            "checkpoint": None,
            "spot": True,
            **more,
        }
        path = write_grant(self.folder, self.grant)
        (self.folder / "task.json").write_text(json.dumps(task))
        short = short_names().globals if self.source != ROOT else {}
        names = {name: short.get(name, name) for name in ("HOST", "EVERY", "RESERVE")}
        program = RUN.format(host=host, every=every, reserve=reserve, **names)
        environment = {**os.environ, "FREEPOST_GRANT": str(path), "PYTHONPATH": str(self.source)}
        self.process = subprocess.Popen(
            [python, "-c", program], env=environment, stderr=subprocess.PIPE, text=True, cwd=self.folder
        )

    def told(self):
        """Every event so far, by its name."""
        listing = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=self.grant.status.prefix).get("Contents", ())
        names = [each["Key"].rpartition("/")[2] for each in listing]
        return {name: json.loads(self.read(self.grant.status.prefix + name)) for name in names if name.isalpha()}

    def until(self, event):
        """Wait for an event."""
        deadline = time.monotonic() + 20
        while event not in self.told():
            assert time.monotonic() < deadline, self.told()
            assert self.process.poll() is None
            time.sleep(0.05)

    def end(self):
        """Wait for its end; give its exit code and what it said."""
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


@pytest.fixture
def vm(s3, bucket, tmp_path):
    """A VM; it leaves no process."""
    made = Vm(s3, bucket, tmp_path)
    yield made
    if made.process:
        made.process.kill()
        made.process.wait()
        made.process.stderr.close()


@contextmanager
def slow(grant, part, seconds):
    """A grant for a proxy that keeps posts of `part` of the keys waiting: the store behind it is the real one."""
    whole, busy, gone = urlsplit(grant.outputs.url), threading.Event(), threading.Event()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if part.encode() in body[:4096]:
                busy.set()
                if gone.wait(seconds):
                    return
            link = http.client.HTTPConnection(whole.netloc)
            link.request("POST", self.path, body, dict(self.headers))
            reply = link.getresponse()
            data = reply.read()
            self.send_response(reply.status)
            self.send_header("ETag", reply.headers.get("ETag", ""))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            link.close()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = whole._replace(netloc=f"127.0.0.1:{server.server_address[1]}").geturl()
        try:
            yield grant._replace(outputs=grant.outputs._replace(url=url)), busy
        finally:
            gone.set()
            server.shutdown()
            thread.join()


def notice(cloud, seconds):
    """Let the cloud give notice."""
    when = timestamp(time.time() + seconds)
    cloud.said["spot/instance-action"] = json.dumps({"action": "terminate", "time": when})
    return when


def children(pid):
    """The processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_what_there_is_is_stored_in_time(cloud, vm):
    """The job gets its SIGTERM, what it writes then is stored too, and `interrupted` says why."""
    vm.run(cloud.host, "echo 1 > out1; trap 'echo 2 > out2; exit 0' TERM; while :; do sleep 0.1; done")
    vm.until("started")
    when = notice(cloud, 30)
    code, said = vm.end()
    assert code == 130
    last = vm.told()["interrupted"]
    assert last["reason"] == f"interrupted: spot capacity was taken back, with notice until {when}"
    assert last["upload"]["files"] == 2
    assert vm.read(vm.grant.outputs.prefix + "out2") == b"2\n"
    assert f"spot capacity is taken back at {when}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_the_packed_agent_heeds_the_notice(cloud, vm, tmp_path, python):
    """What travels in the user-data does the same, on each Python that a VM may have."""
    assert python, "this Python was asked for and is not here"
    vm.source = unpack(agent_archive.packed(agent_archive.whole()), tmp_path / "app")
    vm.run(cloud.host, "echo 1 > out1; exec sleep 60", python=python)
    vm.until("started")
    notice(cloud, 30)
    code, said = vm.end()
    assert (code, "Traceback" in said) == (130, False)
    assert vm.told()["interrupted"]["upload"]["files"] == 1


@pytest.mark.e2e
def test_a_job_that_does_not_listen_is_ended_at_half_the_time(cloud, vm):
    """A grace longer than the time there is doesn't cost the outputs: SIGKILL comes when half of the time is over."""
    vm.run(cloud.host, "echo 1 > out1; trap '' TERM; while :; do sleep 0.1; done", grace=600)
    vm.until("started")
    began = time.time()
    notice(cloud, 12)
    code, _ = vm.end()
    assert code == 130
    assert time.time() < began + 12
    assert vm.told()["interrupted"]["exit_code"] == -signal.SIGKILL
    assert vm.read(vm.grant.outputs.prefix + "out1") == b"1\n"


@pytest.mark.e2e
def test_uploads_that_take_longer_make_room_for_the_last_word(cloud, vm):
    """When the store is too slow for the outputs, manifest and `interrupted` are posted in the time kept for them."""
    with slow(vm.grant, "/out/", 60) as (vm.grant, _):
        vm.run(cloud.host, "echo 1 > out1; exec sleep 60", reserve=4)
        vm.until("started")
        began = time.time()
        notice(cloud, 10)
        code, said = vm.end()
        assert code == 130
        assert time.time() < began + 12
        last = vm.told()["interrupted"]
        assert last["upload"]["failed"]
        assert last["reason"].startswith("interrupted: spot")
        assert "Traceback" not in said


@pytest.mark.e2e
def test_a_job_that_is_done_may_still_succeed(cloud, vm):
    """A notice while the outputs are pushed sets the deadline alone: what is stored in time has succeeded."""
    with slow(vm.grant, "/out/", 3) as (vm.grant, busy):
        vm.run(cloud.host, "echo 1 > out1")
        assert busy.wait(20)
        notice(cloud, 30)
        code, said = vm.end()
    assert "spot capacity is taken back" in said
    assert code == 0
    assert vm.told()["succeeded"]["upload"]["files"] == 1


@pytest.mark.parametrize("kind", ["refusing", "broken", "not one"])
def test_where_there_is_no_metadata_service_nothing_happens(cloud, vm, kind):
    """On other clouds the job runs as ever; after the first try the next is a minute away."""
    cloud.broken = kind == "broken"
    host = "127.0.0.1:1" if kind == "refusing" else cloud.host
    if kind == "not one":
        cloud.said["spot/instance-action"] = None
    vm.run(host, "sleep 1; echo 1 > out1", every=0.1)
    code, said = vm.end()
    assert (code, "succeeded" in vm.told()) == (0, True)
    assert "spot" not in said
    assert len(cloud.asked) < 20 if kind == "not one" else not cloud.asked


@pytest.mark.parametrize("text", ['{"action": "terminate"}', "nonsense", '{"time": "2020-01-01T00:00:00Z"}'])
def test_a_notice_that_makes_no_sense_counts(cloud, vm, text):
    """A notice without a time, or with one that the VM's clock says is long over, gives the job a minute."""
    vm.run(cloud.host, "echo 1 > out1; exec sleep 60")
    vm.until("started")
    cloud.said["spot/instance-action"] = text
    code, said = vm.end()
    assert code == 130
    assert vm.told()["interrupted"]["upload"]["files"] == 1
    assert "Traceback" not in said


@pytest.mark.e2e
def test_it_leaves_no_process(cloud, vm):
    """What looks out for the notice ends with the agent, and by itself when the agent was killed."""
    vm.run(cloud.host, "exec sleep 60")
    vm.until("started")
    (looker,) = [pid for pid in children(vm.process.pid) if b"sleep" not in read_proc_file(int(pid), "cmdline")]
    (job,) = set(children(vm.process.pid)) - {looker}
    vm.process.kill()
    os.kill(int(job), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{looker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
