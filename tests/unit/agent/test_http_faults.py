"""A broken store on loopback: what each fault costs in requests, and what is said in the end."""

import errno
import os
import socket

import pytest

from agent import form_upload, http, retry
from agent.push import Pusher
from tests.support.broken_store import broken_store
from tests.support.grants import SECRETS, fake_grant

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>%s</Message></Error>"


@pytest.fixture
def evil(monkeypatch):
    monkeypatch.setattr(retry, "WAIT", 0.001)
    with broken_store() as server:
        yield server


@pytest.fixture
def pusher(evil, tmp_path):
    return Pusher(fake_grant(evil.url), str(tmp_path / "journal"))


@pytest.fixture
def one(tmp_path):
    path = tmp_path / "one"
    path.write_bytes(b"content" * 100_000)
    return path


def xml(code, message=b"something"):
    return ERROR % (code, message)


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([(503, xml(b"SlowDown"))], 2),
        ([(503, xml(b"SlowDown"))] * 3, 4),
        ([(500, xml(b"InternalError"))], 2),
        ([(400, xml(b"RequestTimeout"))], 2),
        ([(429, b"")], 2),
        ([(520, b"")], 2),
        ([(200, xml(b"InternalError"))], 2),
        ([(400, xml(b"BadDigest"))], 2),
        (["reset"], 2),
        (["lose the reply"], 2),
        (["garbage"], 2),
        (["reset", "lose the reply", (503, xml(b"SlowDown"))], 4),
    ],
    ids=str,
)
def test_a_passing_fault_costs_one_request_each(evil, pusher, one, faults, requests):
    """A transient fault is met with one more request, and the file arrives whole."""
    evil.faults.extend(faults)
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (0, requests)
    assert evil.objects == {"job/out/0/1/one": one.read_bytes()}


def test_a_stall_ends_the_attempt(evil, pusher, one, monkeypatch):
    """A server that takes the body and says nothing costs one request and the stall limit."""
    monkeypatch.setattr(http.HttpConnection, "stall", 0.2)
    evil.faults.append("stall")
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (0, 2)


def test_a_store_that_reads_nothing_ends_the_attempt(tmp_path, monkeypatch):
    """A server that takes no byte of a large body costs the stall limit, not the kernel's patience, and is named."""
    monkeypatch.setattr(retry, "TRIES", 1)
    monkeypatch.setattr(http.HttpConnection, "stall", 1)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(32 << 20)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        grant = fake_grant(f"http://127.0.0.1:{deaf.getsockname()[1]}/bucket")
        result = Pusher(grant, str(tmp_path / "journal")).push([str(large)], base=str(tmp_path))
    assert result.exit_code == 7
    assert result.failed == [("large", "127.0.0.1: timed out")]


def test_a_connection_lost_before_it_is_used_is_made_anew(evil, pusher, one, monkeypatch):
    """A store that hangs up as soon as it has accepted costs a try, and no thread."""
    lost, ask = [OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))], socket.socket.getpeername

    def getpeername(sock):
        if lost:
            raise lost.pop()
        return ask(sock)

    monkeypatch.setattr(socket.socket, "getpeername", getpeername)
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (0, 1)


def test_a_file_that_cannot_be_spliced(evil, pusher, tmp_path, monkeypatch):
    """Where a file system has no sendfile for its files, as some in user space have none, they are read and sent."""

    def sendfile(*_):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "sendfile", sendfile)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 << 20))
    result = pusher.push([str(large)], base=str(tmp_path))
    assert (result.exit_code, evil.requests) == (0, 1)
    assert evil.objects == {"job/out/0/1/large": large.read_bytes()}


def test_a_closed_keep_alive_connection_costs_no_try(evil, pusher, tmp_path, monkeypatch):
    """A connection that the server closed between two forms is made anew, without a pause and without a try."""
    monkeypatch.setattr(retry, "TRIES", 1)
    for name in "ab":
        (tmp_path / name).write_text(name)
    evil.always = "close after"
    result = pusher.push([str(tmp_path / name) for name in "ab"], base=str(tmp_path))
    assert (result.exit_code, evil.requests, evil.connections) == (0, 2, 2)


def test_connections_are_kept(evil, pusher, tmp_path):
    """Many small files go over few connections."""
    for number in range(50):
        (tmp_path / str(number)).write_text("x")
    result = pusher.push([str(tmp_path / str(number)) for number in range(50)], base=str(tmp_path))
    assert (result.exit_code, evil.requests) == (0, 50)
    assert evil.connections <= 32


@pytest.mark.parametrize(
    ("answer", "exit_code", "says"),
    [
        ((403, xml(b"AccessDenied", b"Invalid according to Policy: Policy expired.")), 4, "expired"),
        ((403, xml(b"AccessDenied", b"Request has expired")), 4, "expired"),
        ((400, xml(b"ExpiredToken", b"The provided token has expired.")), 4, "expired"),
        ((403, xml(b"AccessDenied", b"Access Denied")), 5, "AccessDenied"),
        ((400, xml(b"EntityTooLarge", b"Your proposed upload exceeds")), 5, "EntityTooLarge"),
        ((403, xml(b"SignatureDoesNotMatch")), 5, "SignatureDoesNotMatch"),
        ((501, xml(b"NotImplemented")), 5, "NotImplemented"),
        ((404, xml(b"NoSuchBucket")), 5, "NoSuchBucket"),
    ],
    ids=lambda value: value[1].decode()[22:70] if isinstance(value, tuple) else str(value),
)
def test_a_permanent_fault_is_not_tried_again(evil, pusher, one, answer, exit_code, says):
    """A refusal costs one request, and is told apart by Code and Message."""
    evil.always = answer
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (exit_code, 1)
    assert says in result.failed[0][1]


def test_a_refusal_before_the_body_is_read(evil, pusher, tmp_path):
    """A server that answers 403 and hangs up while the body is under way is heard, after one request."""
    big = tmp_path / "big"
    big.write_bytes(bytes(30 << 20))
    evil.always = "refuse early"
    result = pusher.push([str(big)], base=str(tmp_path))
    assert (result.exit_code, evil.requests) == (5, 1)
    assert "EntityTooLarge" in result.failed[0][1]


def test_an_expired_grant_stops_everything(evil, tmp_path):
    """After the store says expired no further file is tried, and the result names what was sent before."""
    names = [f"{number:03d}" for number in range(200)]
    for name in names:
        (tmp_path / name).write_text("x")
    evil.faults.extend([None] * 3)
    evil.always = (403, xml(b"AccessDenied", b"Invalid according to Policy: Policy expired."))
    pusher = Pusher(fake_grant(evil.url), str(tmp_path / "journal"), workers=2)
    result = pusher.push([str(tmp_path / name) for name in names], base=str(tmp_path))
    assert (result.exit_code, result.files) == (4, 3)
    assert evil.requests <= 3 + 2
    assert sorted(evil.objects) == [f"job/out/0/1/{name}" for name in sorted(result.stored)]
    assert sorted(result.stored + [name for name, _ in result.failed]) == names


def test_a_hopeless_signature_stops_everything(evil, tmp_path):
    """A signature that the store refuses is not tried on every file."""
    for number in range(100):
        (tmp_path / str(number)).write_text("x")
    evil.always = (403, xml(b"SignatureDoesNotMatch"))
    pusher = Pusher(fake_grant(evil.url), str(tmp_path / "journal"), workers=2)
    result = pusher.push([str(tmp_path / str(number)) for number in range(100)], base=str(tmp_path))
    assert result.exit_code == 5
    assert evil.requests <= 2


def test_one_bad_file_does_not_stop_the_others(evil, pusher, tmp_path):
    """A refused file is listed; the others arrive, and the exit code says that some failed."""
    for number in range(20):
        (tmp_path / str(number)).write_text("x")
    evil.faults.append((403, xml(b"AccessDenied", b"Access Denied")))
    result = pusher.push([str(tmp_path / str(number)) for number in range(20)], base=str(tmp_path))
    assert (result.exit_code, result.files, len(result.failed), evil.requests) == (6, 19, 1, 20)


def test_an_unreachable_store_stops_everything(evil, tmp_path, monkeypatch):
    """When two files in a row have used up their tries and nothing arrived, the others are not tried."""
    monkeypatch.setattr(retry, "TRIES", 3)
    for number in range(50):
        (tmp_path / str(number)).write_text("x")
    evil.always = (503, xml(b"SlowDown"))
    pusher = Pusher(fake_grant(evil.url), str(tmp_path / "journal"), workers=1)
    result = pusher.push([str(tmp_path / str(number)) for number in range(50)], base=str(tmp_path))
    assert result.exit_code == 7
    assert evil.requests <= 9


def test_retry_after_is_honoured(evil, pusher, one):
    """The pause is the one that the store asks for."""
    waits = []
    pusher.reset(0)
    sender = form_upload.FormUploader(pusher.grant.outputs)
    evil.faults.append((503, xml(b"SlowDown"), [("Retry-After", "7")]))
    retry.with_retries(lambda: sender.post("one", one.read_bytes()), pause=waits.append)
    sender.close()
    assert (waits, evil.requests) == ([7], 2)


def test_damage_that_lasts_is_an_integrity_failure(evil, pusher, one, monkeypatch):
    """A store that finds the body damaged every time ends in exit code 8, after all tries."""
    monkeypatch.setattr(retry, "TRIES", 3)
    evil.always = (400, xml(b"BadDigest"))
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (8, 3)


def test_a_wrong_etag_is_damage(evil, tmp_path, one, monkeypatch):
    """Without a checksum in the policy, an ETag that is an MD5 but not of these bytes is a failure."""
    monkeypatch.setattr(retry, "TRIES", 2)
    pusher = Pusher(fake_grant(evil.url, sums=False), str(tmp_path / "journal"))
    evil.always = "wrong etag"
    assert pusher.push([str(one)], base=str(tmp_path)).exit_code == 8
    evil.always = None
    assert pusher.push([str(one)], base=str(tmp_path)).exit_code == 0
    assert b'"verified":"etag"' in pusher.journal.files["one"]
    assert evil.requests == 3


def test_an_error_keeps_secrets_to_itself(evil, pusher, one):
    """A store that echoes the policy's values in its message does not get them into ours."""
    echo = b'Invalid according to Policy: Policy Condition failed: ["eq", "$x-amz-security-token", "%s"] %s'
    evil.always = (403, xml(b"AccessDenied", echo % (SECRETS[1].encode(), SECRETS[0].encode())))
    text = pusher.push([str(one)], base=str(one.parent)).failed[0][1]
    assert "$x-amz-security-token" in text
    for secret in SECRETS:
        assert secret not in text


def test_a_deadline_ends_the_push(evil, pusher, one):
    """Past the deadline nothing is sent, and what is left is listed."""
    result = pusher.push([str(one)], base=str(one.parent), deadline=1)
    assert (result.exit_code, result.files, evil.requests) == (6, 0, 0)


def test_a_damaged_body_is_refused_by_the_checksum(evil, pusher, one, monkeypatch):
    """Bytes that change between hash and wire are refused by the server and sent again."""
    real, spoilt = http.HttpConnection.send, []

    def spoil(wire, pieces):
        if not spoilt:
            spoilt.append(1)
            pieces = (pieces[0], b"?" * len(pieces[1]), *pieces[2:])
        real(wire, pieces)

    monkeypatch.setattr(http.HttpConnection, "send", spoil)
    result = pusher.push([str(one)], base=str(one.parent))
    assert (result.exit_code, evil.requests) == (0, 2)
