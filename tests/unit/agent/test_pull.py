"""`agent pull`: what is fetched, in which ranges, what survives a crash, and what is refused."""

import hashlib
import os

import pytest

from agent import pull, retry
from agent.pull import pull as fetch_all
from tests.support.broken_store import broken_store
from tests.support.grants import SECRETS, fake_grant, real_grant, run_agent, write_grant


@pytest.fixture
def evil(monkeypatch):
    monkeypatch.setattr(retry, "WAIT", 0.001)
    monkeypatch.setattr(pull, "RANGE", 1000)
    monkeypatch.setattr(pull, "THREADS", 2)
    with broken_store() as server:
        yield server


def wanted(path, url, data, **more):
    return {"path": path, "url": url, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}


@pytest.fixture
def grant(evil):
    """A grant of three inputs of the broken store."""
    contents = {"a": os.urandom(4321), "sub/b": b"small", "empty": b""}
    inputs = []
    for path, data in contents.items():
        evil.objects[path] = data
        inputs.append(wanted(path, f"{evil.url}{path}?X-Amz-Signature={SECRETS[0]}", data, mode="0750"))
    return fake_grant(evil.url, inputs=inputs)


def test_inputs_of_a_real_store(s3, bucket, tmp_path):
    """Presigned GETs of a real store are fetched in ranges, with their modes, and not a second time."""
    inputs = []
    for name, size in (("in/one file", 40 << 20), ("two", 7), ("zero", 0)):
        data = os.urandom(size)
        s3.put_object(Bucket=bucket, Key=name, Body=data)
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": name})
        inputs.append(wanted(name, url, data, mode="0600"))
    path = write_grant(tmp_path, real_grant(s3, bucket, inputs=inputs))
    done = run_agent("pull", "--grant", path, "--into", tmp_path / "here", check=0)
    assert done.stderr.count(b"fetched") == 3
    for item in inputs:
        file = tmp_path / "here" / item["path"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == item["sha256"]
        assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "here").rglob("*")) == ["in", "one file", "two", "zero"]
    assert run_agent("pull", "--grant", path, "--into", tmp_path / "here", check=0).stderr == b""


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([], 6),
        ([(503, b"")], 7),
        (["cut"], 7),
        ([(500, b""), "cut", (503, b"")], 9),
        (["no ranges"], 6),
    ],
    ids=str,
)
def test_a_passing_fault_costs_one_request(evil, grant, tmp_path, faults, requests):
    """A range that fails is fetched again, and the others are not."""
    evil.faults.extend(faults)
    assert fetch_all(grant, str(tmp_path / "to")) == []
    assert evil.requests == requests
    for item in grant.inputs:
        assert (tmp_path / "to" / item["path"]).read_bytes() == evil.objects[item["path"]]
        assert (tmp_path / "to" / item["path"]).stat().st_mode & 0o777 == 0o750


def test_a_crash_costs_the_ranges_under_way(evil, grant, tmp_path, monkeypatch):
    """What was fetched before a crash is not fetched again."""
    monkeypatch.setattr(pull, "THREADS", 1)
    evil.faults.extend([None, None, (404, b"")])
    evil.always = (404, b"")
    failed = dict(fetch_all(grant, str(tmp_path)))
    assert set(failed) == {"a", "sub/b"}
    assert {failure.exit for failure in failed.values()} == {5}
    evil.always = None
    evil.posts.clear()
    assert fetch_all(grant, str(tmp_path)) == []
    assert len([line for line in evil.posts if line.startswith("/a?")]) == 3
    assert (tmp_path / "a").read_bytes() == evil.objects["a"]


def test_a_wrong_sum_is_not_put_in_place(evil, grant, tmp_path):
    """Bytes that aren't those of the grant are dropped, and fetched anew by the next pull."""
    right = evil.objects["a"]
    evil.objects["a"] = bytes(len(right))
    ((name, failure),) = fetch_all(grant, str(tmp_path))
    assert (name, failure.exit, (tmp_path / "a").exists()) == ("a", 8, False)
    evil.objects["a"] = right
    assert fetch_all(grant, str(tmp_path)) == []


def test_an_expired_url_stops_all(evil, grant, tmp_path, monkeypatch):
    """After the store says expired nothing more is asked for."""
    monkeypatch.setattr(pull, "THREADS", 1)
    evil.always = (403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
    failed = dict(fetch_all(grant, str(tmp_path)))
    assert evil.requests == 1
    assert failed["sub/b"].exit == failed["a"].exit == 4
    assert SECRETS[0] not in str(failed["a"])


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "sub/../../up"])
def test_nothing_is_written_outside_of_the_folder(evil, tmp_path, path):
    """An input whose path leads out of the folder is refused."""
    grant = fake_grant(evil.url, inputs=[wanted(path, evil.url, b"x")])
    ((_, failure),) = fetch_all(grant, str(tmp_path / "to"))
    assert (failure.exit, evil.requests) == (2, 0)
