"""The door: a job that may not read the grant has `agent run` push its files, and gets no more out of it than that."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

from agent import layout, push_client
from agent.grant import dump
from tests.support.broken_store import broken_store
from tests.support.grants import ROOT, fake_grant, gather, reader, real_grant, tree_of, write_grant
from tests.support.interpreters import AGENT_PYTHONS

SERVE = """
import os, sys
from agent import push_server
from agent.compose import compose
server = push_server.PushServer(sys.argv[1], int(sys.argv[3]), sys.argv[2], compose)
print("open", flush=True)
sys.stdin.read()
server.stop()
"""
PUSH = """
import sys
from agent import layout
layout.SOCKET, layout.GRANT = sys.argv.pop(1), "/nowhere"
from agent.main import main
sys.exit(main())
"""


def python_of(python):
    assert python, "this Python was asked for and is not here"
    return [python, "-W", "error", "-c"]


ENV = dict(os.environ, PYTHONPATH=str(ROOT))


@contextlib.contextmanager
def door_of(grant_path, *, python=sys.executable, uid=None):
    """Open a door in a process of its own, as `agent run` does, and shut it at the end."""
    path = str(grant_path.parent / "door")
    words = [*python_of(python), SERVE, path, str(grant_path), str(os.getuid() if uid is None else uid)]
    with subprocess.Popen(words, env=ENV, stdin=-1, stdout=-1, stderr=-1) as process:
        try:
            assert process.stdout.readline() == b"open\n"
            yield path
        finally:
            _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, b"")
    assert not os.path.exists(path)


def push(door, *words, python=sys.executable, **more):
    """Run `agent push` as a job does that can't read the grant."""
    words = [*python_of(python), PUSH, door, "push", *map(str, words)]
    return subprocess.run(words, env=ENV, capture_output=True, check=False, timeout=100, **more)


@pytest.fixture
def evil():
    with broken_store() as server:
        yield server


@pytest.fixture
def evil_door(evil, tmp_path):
    """A door of the broken store, which answers as it is told to."""
    with door_of(write_grant(tmp_path, fake_grant(evil.url))) as path:
        yield path


@pytest.fixture
def knock(evil_door):
    """Connections to a door, for requests that `agent push` would not make."""
    with contextlib.ExitStack() as stack:

        def connect():
            link = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            link.settimeout(60)
            link.connect(evil_door)
            return link

        yield connect


def tell(link, *files, raw=None, **message):
    """Send one message."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))] if files else []
    with contextlib.suppress(ConnectionError):  # it may have been refused before
        link.sendmsg([json.dumps(message).encode() if raw is None else raw], rights)


def outcome(link, *files, error=None):
    """Answer every request for a file with these open files. Return (exit code, what was said)."""
    said = ""
    with link:
        while True:
            heard = link.recv(1 << 17)
            if not heard:
                return None, said
            message = json.loads(heard)
            if "code" in message:
                return message["code"], said
            if "open" in message:
                tell(link, *files, **({"error": error} if error else {}))
            else:
                said += message["say"][1]


def forge(link, row, *files, **more):
    """Ask for one file to be stored, and hand in these open files for it."""
    tell(link, options={})
    tell(link, items=[row])
    tell(link, go=True)
    return outcome(link, *files, **more)


@pytest.mark.e2e
@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_a_tree_through_the_door(python, s3, bucket, tmp_path):
    """On each Python, files of all sizes and names, bundled, split and streamed, arrive as by a push with the grant."""
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    for number in range(300):  # more than the 253 open files that go into one message
        (tree / f"{number} ☃\n").write_bytes(os.urandom(number * 100))
    (tree / "big").write_bytes(os.urandom(18 << 20))
    grant = real_grant(s3, bucket)
    with door_of(write_grant(tmp_path, grant), python=python) as door:
        done = push(door, "--split-over", "16M", "--base", tree, tree, python=python)
        assert done.returncode == 0, done.stderr
        assert b"301 files" in done.stderr
        found, manifest = gather(reader(s3, bucket), grant)
        assert found == tree_of(tree)
        assert manifest["complete"] is False
        done = push(door, "--bundle", "--as", "bundled", tree, python=python)
        assert done.returncode == 0, done.stderr
        done = push(door, "-", "--as", "piped", python=python, input=bytes(17 << 20))
        assert done.returncode == 0, done.stderr
        done = push(door, "--json", "--base", tree, tree, python=python)
        assert json.loads(done.stdout.splitlines()[-1])["sent"] == 0
    found = gather(reader(s3, bucket), grant)[0]
    assert found.pop(b"piped") == bytes(17 << 20)
    assert {name: data for name, data in found.items() if name.startswith(b"bundled/")} == {
        b"bundled/" + name: data for name, data in tree_of(tree).items()
    }


def test_what_it_prints_is_what_a_push_with_the_grant_prints(s3, bucket, tmp_path):
    """Summary, failed files, JSON and exit codes don't tell which way files went."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nothing")
    grant = write_grant(tmp_path, real_grant(s3, bucket))
    plain = [*python_of(sys.executable), PUSH, "/no/door", "push", "--grant", str(grant)]
    with door_of(grant) as door:
        for words in (
            ["file"],
            ["file", "absent"],
            ["absent"],
            ["link"],
            ["-"],
            ["--json", "--as", "x/y", "file"],
            ["--workers=x", "file"],
        ):
            there = push(door, *words, cwd=tmp_path)
            (tmp_path / "grant.json.journal").unlink(missing_ok=True)
            here = subprocess.run([*plain, *words], env=ENV, capture_output=True, check=False, cwd=tmp_path)
            assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr), words
            (tmp_path / "grant.json.journal").unlink(missing_ok=True)


def test_it_holds_few_files_open(s3, bucket, tmp_path):
    """A push of many files needs but a few open ones, on either side."""
    for number in range(400):
        (tmp_path / str(number)).write_text("x")
    with door_of(write_grant(tmp_path, real_grant(s3, bucket))) as door:
        few = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))  # noqa: E731
        done = push(door, *range(400), cwd=tmp_path, preexec_fn=few)
    assert done.returncode == 0, done.stderr


def test_only_its_user_may_connect(tmp_path, evil):
    """Nobody else opens the socket, and whoever got hold of it is told off: root too, who has the grant."""
    (tmp_path / "file").write_text("x")
    with door_of(write_grant(tmp_path, fake_grant(evil.url)), uid=65534 if os.getuid() == 0 else os.getuid()) as door:
        assert os.stat(door).st_mode & 0o777 == 0o600
        if os.getuid():
            pytest.skip("NOT RUN: only root can be somebody else")
        assert os.stat(door).st_uid == 65534
        done = push(door, "file", cwd=tmp_path)
    assert done.returncode == 5
    assert done.stderr == b"agent: only user 65534 may push here, and this is user 0\n"
    assert not evil.posts


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *(
            (name, "relative path")
            for name in ("../x", "..", "/etc/x", "a/../b", ".", "", "a//b", "a/", "a%2fb", "\ud800")
        ),
        *((name, "relative path") for name in ("a%00", "a\nb", "a\\b", "%GG")),
        ("x" * 1020, "too long"),
    ],
    ids=ascii,
)
def test_names_that_are_refused(knock, evil, tmp_path, name, says):
    """A name that isn't below the job's prefix, or isn't written as a push writes it, is refused in a sentence."""
    (tmp_path / "file").write_text("x")
    with open(tmp_path / "file", "rb") as file:
        code, said = forge(knock(), [name, 1, 0, 0o644], file.fileno())
    assert code in (2, 6)
    assert says in said
    assert not [key for key in evil.posts if key.startswith("job/out")]


def handed(tmp_path, kind):
    """An open file of a kind that is not to be stored."""
    path = tmp_path / "file"
    path.write_text("1234")
    if kind == "pipe":
        return os.pipe()[0]
    flags = {"path": os.O_PATH, "written": os.O_WRONLY}.get(kind, os.O_RDONLY)
    return os.open({"directory": tmp_path, "device": "/dev/zero"}.get(kind, path), flags)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("path", "it was not opened for reading"),
        ("written", "it was not opened for reading"),
        ("directory", "it is no plain file"),
        ("device", "it is no plain file"),
        ("pipe", "it is no plain file"),
    ],
)
def test_open_files_that_are_refused(knock, evil, tmp_path, kind, says):
    """What its owner couldn't read, or is no plain file, is refused, and nothing is read."""
    code, said = forge(knock(), ["x", 4, 0, 0o644], handed(tmp_path, kind))
    assert (code, f"x: {says}\n" in said) == (5, True), said
    assert "job/out/0/1/x" not in evil.objects


def test_a_claim_that_is_too_large_is_refused(knock, evil, tmp_path):
    """A file of 4 bytes that is said to have 10 GiB is not stored, nor is one of more than the policy admits."""
    fd = handed(tmp_path, "plain")
    code, said = forge(knock(), ["x", 10 << 30, 0, 0o644], fd)
    assert (code, "x: it is said to have 10737418240 bytes, and has 4\n" in said) == (5, True), said
    code, said = forge(knock(), ["x", 1 << 62, 0, 0o644], fd)
    assert (code, "9,999 parts" in said) == (5, True), said
    assert "job/out/0/1/x" not in evil.objects


def test_a_path_without_an_open_file_is_refused(knock, evil):
    """A name alone gets nothing stored, whatever file it is the name of: it is the job that opens files."""
    code, said = forge(knock(), ["etc/shadow", 1, 0, 0o600])
    assert (code, said.splitlines()[0]) == (5, "etc/shadow: no open file came with it")
    code, said = forge(knock(), ["etc/shadow", 1, 0, 0o600], error="Permission denied")
    assert (code, said.splitlines()[0]) == (6, "etc/shadow: Permission denied")
    assert not [key for key in evil.posts if key.startswith("job/out")]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"[1]",
        b"[" * 60000,
        b"{}",
        b'{"options": 1}',
        b'{"options": {"workers": 5}}',
        b'{"options": {}, "stream": 1}',
        b'{"options": {"as": "../x"}, "stream": 1}',
        b"{" + b" " * 70000 + b"}",
        b'{"options": {"workers": "x"}}',
        b'{"options": {"split-over": "1e999"}}',
    ],
    ids=lambda raw: str(raw[:40]),
)
def test_malformed_requests(knock, evil, tmp_path, raw):
    """Nonsense is refused, with more open files than fit too, and the next who comes is served."""
    fd = handed(tmp_path, "plain")
    for files in ((), [fd] * 250):
        link = knock()
        tell(link, *files, raw=raw)
        tell(link, items=[["x", 4, 0, 0o644]])
        tell(link, go=True)
        assert outcome(link)[0] in (2, 5)
    assert forge(knock(), ["x", 4, 0, 0o644], fd)[0] == 0
    assert evil.objects["job/out/0/1/x"] == b"1234"


@pytest.mark.parametrize(
    "rows",
    [5, [5], [["x"]], [["x", "4", 0, 0]], [["x", 4, "y", 0]], [["x", -2, 0, 0]], [["x", True, 0, 0]], [[[], 1, 0, 0]]],
)
@pytest.mark.parametrize("name", ["items", "failed"])
def test_malformed_lists(knock, rows, name):
    """A list that is none ends the talk."""
    link = knock()
    tell(link, options={})
    tell(link, **{name: rows})
    tell(link, go=True)
    code, said = outcome(link)
    assert code == 2
    assert "this is no request" in said or "relative path" in said


def test_those_who_stall_or_die_keep_nobody_waiting(knock, evil, evil_door, tmp_path):
    """While one client says nothing, one is killed in its upload and one hung up in the middle, another is served."""
    fd = handed(tmp_path, "plain")
    silent, halfway, gone = knock(), knock(), knock()
    tell(halfway, options={})
    tell(gone, options={}, raw=None)
    gone.close()
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    evil.faults.append("stall")
    words = [*python_of(sys.executable), PUSH, evil_door, "push", "large"]
    with subprocess.Popen(words, env=ENV, cwd=tmp_path, stderr=-1) as process:
        while not evil.posts:
            threading.Event().wait(0.01)  # the store tells no one
        process.send_signal(signal.SIGKILL)
    assert forge(knock(), ["x", 4, 0, 0o644], fd)[0] == 0
    silent.close()
    halfway.close()


def test_a_stream_that_is_cut_off_is_not_stored(knock, evil):
    """The end of the pipe counts only when its writer says that this was all: a killed one's stream is no file."""
    for claim in (None, 3):
        link, (out, into) = knock(), os.pipe()
        tell(link, out, options={"as": "x"}, stream=True)
        os.write(into, b"half")
        os.close(into)
        os.close(out)
        if claim:
            tell(link, end=claim)
        else:
            link.shutdown(socket.SHUT_WR)
        code, said = outcome(link)
        assert (code, "cut off" in said) == (6, True), said
    assert "job/out/0/1/x" not in evil.objects


def test_a_change_while_it_is_read_is_seen(s3, bucket, tmp_path):
    """A file that grows during the push is stored as it is in the end, or fails; never is half of it called whole."""
    path = tmp_path / "log"
    path.write_bytes(bytes(1 << 20))
    grant, stop = real_grant(s3, bucket), threading.Event()

    def grow():
        while not stop.wait(0.001):
            with open(path, "ab") as file:
                file.write(b"x")

    writer = threading.Thread(target=grow)
    with door_of(write_grant(tmp_path, grant)) as door:
        writer.start()
        threading.Timer(1, stop.set).start()
        done = push(door, "log", cwd=tmp_path)
        stop.set()
        writer.join()
        assert done.returncode in (0, 6)
        assert push(door, "log", cwd=tmp_path).returncode == 0
    assert gather(reader(s3, bucket), grant)[0][b"log"] == path.read_bytes()


def test_a_renewed_grant_is_used(evil, tmp_path):
    """Each push takes the grant that lies there then."""
    path = write_grant(tmp_path, fake_grant("http://127.0.0.1:9/"))
    (tmp_path / "file").write_text("x")
    with door_of(path) as door:
        path.write_text(dump(fake_grant(evil.url)))
        assert push(door, "file", cwd=tmp_path).returncode == 0
        path.write_text("{}")
        done = push(door, "file", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (3, b"agent: the grant has no field 'version'\n")


def test_pull_and_check_say_why_not(evil_door):
    """What needs the grant itself is not for the job's user, and says so."""
    for name, says in (("pull", "inputs are there already"), ("check", "only root may read the grant")):
        words = [*python_of(sys.executable), PUSH, evil_door, name, *["x"] * (name == "check")]
        done = subprocess.run(words, env=ENV, capture_output=True, check=False)
        assert (done.returncode, says in done.stderr.decode()) == (3, True)


def test_nobody_behind_the_door(tmp_path):
    """A socket that nobody listens at is told of in a sentence."""
    path = str(tmp_path / "door")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
    done = push(path, "x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, f"agent: {path}: Connection refused\n".encode())


def test_it_is_named_by_no_process_that_outlives_it(evil_door):
    """Shutting it ends those it was serving."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(evil_door)
    tell(link, options={})
    link.close()
    assert Path(evil_door).is_socket()


def test_a_stream_is_announced_before_its_end(tmp_path, monkeypatch):
    """However fast standard input ends, the first message says what is wanted, and the last how long it was."""

    class AtOnce:
        """A thread that has done its work when it is started."""

        def __init__(self, target, args, **_):
            self.start = lambda: target(*args)

    said = []
    monkeypatch.setattr(push_client, "send_message", lambda _, *files, **message: said.append((len(files), message)))
    monkeypatch.setattr(push_client.threading, "Thread", AtOnce)
    monkeypatch.setattr(push_client, "answer", lambda *_: 0)
    monkeypatch.setattr(push_client, "BLOCK", 4)
    monkeypatch.setattr(layout, "SOCKET", str(tmp_path / "door"))
    ends = os.pipe()
    os.write(ends[1], b"three\n")
    os.close(ends[1])
    kept = os.dup(0)
    os.dup2(ends[0], 0)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.bind(layout.SOCKET)
            door.listen()
            assert push_client.push({"as": "three"}, ["-"]) == 0
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(ends[0])
    assert said[0] == (1, {"options": {"as": "three"}, "stream": True})
    assert said[1][1].keys() == {"end"}
