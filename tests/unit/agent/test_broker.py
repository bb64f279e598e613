"""`agent push --broker`: grants asked for by token, from the real service, for a real store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from agent import broker
from agent.console import CommandError
from provisioner.cli import app
from tests.support.grants import ROOT, run_agent
from tests.support.interpreters import AGENT_PYTHONS


@pytest.fixture
def token(mint, tmp_path):
    """A file with a token for p/run/."""
    path = tmp_path / "token"
    path.write_text(mint("p/run/", "--methods", "POST") + "\n")
    return path


def options(service, token):
    """What a push by broker is told."""
    return ["--broker", service.url + "/", "--token-file", token]


def files(folder, count, size):
    """Make files in `folder`/in of the same size and different bytes."""
    (folder / "in").mkdir()
    for number in range(count):
        (folder / "in" / str(number)).write_bytes(os.urandom(size))
    return folder / "in"


def stored(s3, bucket):
    """The keys of the bucket and their sizes, without the manifest's."""
    found = s3.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {item["Key"]: item["Size"] for item in found if "/.freepost/" not in item["Key"]}


def start(*argv, **more):
    """Start `agent push` without waiting for its end."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "agent", "push", *map(str, argv)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_small_files_and_their_manifest(serve, token, s3, bucket, tmp_path, python):
    """Files land below the token's prefix, the manifest beside them; neither the token nor a grant is left anywhere."""
    assert python, "this Python was asked for and is not here"
    service, folder = serve(), files(tmp_path, 5, 1000)
    done = run_agent("push", *options(service, token), "--base", tmp_path, folder, python=python, check=0)
    assert stored(s3, bucket) == {f"p/run/in/{number}": 1000 for number in range(5)}
    manifest = json.loads(s3.get_object(Bucket=bucket, Key="p/run/.freepost/manifest.json")["Body"].read())
    assert manifest["complete"]
    assert manifest["files"] == 5
    assert token.read_text().strip() not in done.stdout.decode() + done.stderr.decode()
    assert sorted(path.name for path in tmp_path.glob("token*")) == ["token", "token.journal"]


@pytest.mark.e2e
def test_a_large_file_outlives_many_grants(serve, token, s3, bucket, tmp_path):
    """A push of 14 seconds in parts, by grants of nine: each is renewed in time, and nothing is said of it."""
    service, folder = serve("--longest", "9s"), files(tmp_path, 1, 56 << 20)
    words = ["--base", tmp_path, "--split-over", "16M", "--limit-rate", "4M", "--workers", "1"]
    done = run_agent("push", *options(service, token), *words, folder, check=0)
    sizes = stored(s3, bucket)
    assert sorted(sizes) == [f"p/run/in/0.parts/0000{number}" for number in (1, 2, 3, 4)]
    assert sum(sizes.values()) == 56 << 20
    assert sum(event["event"] == "grant" for event in service.events()) >= 2
    assert "expired" not in done.stderr.decode()


@pytest.mark.e2e
def test_two_pushes_share_a_token(serve, token, s3, bucket, tmp_path):
    """Each has a grant of its own: the end of the one takes nothing from the other, which goes on renewing."""
    service, folder = serve("--longest", "4s"), files(tmp_path, 60, 20_000)
    words = [*options(service, token), "--base", tmp_path]
    slow = start(*words, "--as", "slow", "--limit-rate", "150K", folder)
    until = time.monotonic() + 30
    while not stored(s3, bucket):
        assert time.monotonic() < until
        time.sleep(0.05)
    (tmp_path / "quick").write_bytes(b"x")
    run_agent("push", *words, tmp_path / "quick", check=0)
    said = slow.communicate(timeout=60)[0]
    assert slow.returncode == 0, said
    assert sum(event["event"] == "grant" for event in service.events()) >= 3
    assert len(stored(s3, bucket)) == 61
    assert not list(tmp_path.glob("token.grant*"))


@pytest.mark.e2e
def test_an_object_that_takes_longer_than_a_grant_lives_fails(serve, token, tmp_path):
    """It is tried three times, never for ever; the sentence says what is wrong, and small files are stored."""
    service, folder = serve("--longest", "2s"), files(tmp_path, 1, 10_000_000)
    words = ["--base", tmp_path, "--limit-rate", "4M", "--split-over", "19M"]
    done = run_agent("push", *options(service, token), *words, folder, check=4)
    assert "grants are too short for it" in done.stderr.decode()


@pytest.mark.e2e
def test_a_killed_push_is_resumed(serve, token, s3, bucket, tmp_path):
    """What a killed push has stored is not sent again: the journal lies beside the token file."""
    service, folder = serve(), files(tmp_path, 40, 20_000)
    words = [*options(service, token), "--base", tmp_path]
    first = start(*words, "--limit-rate", "200K", folder, start_new_session=True)
    until = time.monotonic() + 30
    while len(stored(s3, bucket)) < 5:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = json.loads(run_agent("push", *words, "--json", folder, check=0).stdout.splitlines()[-1])
    assert done["files"] == 40
    assert 0 < done["sent"] <= 36
    assert len(stored(s3, bucket)) == 40


@pytest.mark.e2e
def test_a_token_revoked_midway_ends_the_push_when_its_grant_does(serve, mint, token, tmp_path):
    """The grant that was given lives on, no other is given: exit 3, the service's sentence, and what is stored."""
    service, folder = serve("--longest", "4s"), files(tmp_path, 100, 20_000)
    push = start(*options(service, token), "--base", tmp_path, "--limit-rate", "100K", folder)
    until = time.monotonic() + 30
    while not any(event["event"] == "grant" for event in service.events()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert app.main(["token", "--revoke", next(e["token"] for e in service.events() if e["event"] == "grant")]) == 0
    said = push.communicate(timeout=60)[0]
    assert push.returncode == 3, said
    assert "the broker: the token is revoked" in said
    assert "the grant has expired" in said
    assert "stored before: in/" in said


@pytest.mark.e2e
def test_too_many_requests_are_waited_out(serve, token, tmp_path):
    """429 with Retry-After: the agent comes back then, and succeeds."""
    service, folder = serve("--rate", "1", "--burst", "2"), files(tmp_path, 1, 10)
    words = ["push", *options(service, token), "--base", tmp_path, folder]
    run_agent(*words, check=0)
    began = time.monotonic()
    run_agent(*words, check=0)
    assert 1 <= time.monotonic() - began < 30


@pytest.mark.e2e
def test_what_the_service_refuses_is_said_with_its_exit_code(serve, mint, token, tmp_path):
    """A forged, an expired and a useless token, and a file that holds none, each end with a sentence and a code."""
    service, folder = serve(), files(tmp_path, 1, 10)
    genuine = token.read_text().strip()
    short = mint("p/run/", "--expires", "1s")
    cases = [
        (genuine[:-2] + "xx", 3, "not one of this service"),
        (mint("p/run/", "--methods", "GET"), 5, "POST"),
        ("", 3, "holds no token"),
        ("two words", 3, "holds no token"),
        (short, 4, "expired"),
    ]
    for text, code, sentence in cases:
        if text == short:
            time.sleep(1.1)  # the shortest life that a token can have
        token.write_text(text)
        done = run_agent("push", *options(service, token), folder, check=code)
        assert sentence in done.stderr.decode()
        assert not text or text not in done.stderr.decode()
    run_agent("push", "--broker", service.url, "--token-file", tmp_path / "none", folder, check=3)


def test_check_by_broker(serve, token, tmp_path):
    """`agent check` asks the same way, and says what the store would take; pull has nothing to fetch."""
    service, folder = serve(), files(tmp_path, 1, 10)
    done = run_agent("check", *options(service, token), "--base", tmp_path, folder, check=0)
    assert done.stdout == b"in/0: ok\n"
    run_agent("pull", *options(service, token), check=2)


def test_a_service_that_is_down_is_tried_again_and_then_told(unused_port, token, tmp_path, monkeypatch):
    """Connection refused: as many tries as for a store, then exit code 7 with the host in the sentence."""
    monkeypatch.setattr("agent.retry.TRIES", 3)
    asked = []
    monkeypatch.setattr(
        broker, "request_grant", lambda *words, real=broker.request_grant: (asked.append(1), real(*words))
    )
    with pytest.raises(CommandError) as told:
        broker.obtain(f"http://127.0.0.1:{unused_port}/", str(token), print)
    assert told.value.args[1] == 7
    assert "127.0.0.1" in told.value.args[0]
    assert len(asked) == 3


@pytest.fixture
def unused_port():
    """A port of loopback that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.e2e
def test_a_service_that_comes_up_late_is_found(serve, unused_port, token, tmp_path):
    """A push that starts before the service waits for it."""
    folder = files(tmp_path, 1, 10)
    push = start("--broker", f"http://127.0.0.1:{unused_port}", "--token-file", token, "--base", tmp_path, folder)
    late = threading.Timer(1, lambda: serve("--port", str(unused_port)))
    late.start()
    said = push.communicate(timeout=60)[0]
    late.join()
    assert push.returncode == 0, said


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://broker.example/", "in clear"),
        ("http://192.0.2.7:8450/", "in clear"),
        ("http://127.0.0.1.example/", "in clear"),
        ("ftp://127.0.0.1/", "not a URL such as"),
        ("https://user:secret@h/", "not a URL such as"),
        ("", "not a URL such as"),
    ],
)
def test_a_token_is_never_sent_in_clear(url, sentence, token):
    """Plain HTTP is for this machine alone, and nothing is asked of any other address."""
    with pytest.raises(CommandError, match=sentence) as told:
        broker.obtain(url, str(token), print)
    assert told.value.args[1] == 2
