"""The signing service as its operator runs it, on a real store: a process, its tokens, its log and where it listens."""

import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests

from agent.grant import parse
from provisioner.cli import app
from provisioner.errors import BadInput, Expiry, NotFound, Refused
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import record, role_session
from provisioner.jobs.record import JobRecord
from provisioner.plan.layout import JobKeys
from provisioner.s3.signing import Bucket, Credentials
from provisioner.serve import key_store, server
from provisioner.serve.rate import Limiter
from provisioner.serve.signing import SigningService
from provisioner.serve.token import Allowance

NOW = datetime(2026, 11, 23, 21, tzinfo=timezone.utc)


@pytest.fixture
def http():
    """A session that ignores proxies of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def ask(http):
    """Ask a service for a signature."""

    def asked(service, what, token, body=None, **more):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return http.post(f"{service.url}/v1/{what}", json=body, headers=headers, timeout=20, **more)

    return asked


def test_every_kind_of_signature_works_on_the_store(serve, mint, ask, http, s3, bucket):
    """What the service answers is what the store takes: PUT, POST, GET and a whole grant."""
    service, token = serve(), mint()
    put = ask(service, "put", token, {"key": "p/run/a b", "size": 3, "content_type": "text/plain"}).json()
    assert http.put(put["url"], data=b"abc", headers=put["headers"], timeout=20).status_code == 200
    form = ask(service, "post", token, {"key": "p/run/form"}).json()
    assert http.post(form["url"], data=form["fields"], files={"file": b"xyz"}, timeout=20).status_code == 204
    got = ask(service, "get", token, {"keys": ["p/run/a b", "p/run/form"], "filename": "ü.txt"}).json()["urls"]
    answers = [http.get(item["url"], timeout=20) for item in got]
    assert [answer.content for answer in answers] == [b"abc", b"xyz"]
    assert (
        answers[0]
        .headers["content-disposition"]
        .startswith("attachment; filename=\"_.txt\"; filename*=UTF-8''%C3%BC.txt")
    )
    grant = parse(ask(service, "grant", token).text)
    assert grant.outputs.prefix == "p/run/"
    fields = grant.outputs.form(key="p/run/by-grant")
    assert http.post(grant.outputs.url, data=fields, files={"file": b"1"}, timeout=20).status_code == 204
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["p/run/a b", "p/run/by-grant", "p/run/form"]


def test_a_put_of_another_size_is_refused_by_the_store(serve, mint, ask, http):
    """The size limit of a token holds for PUT: the length is signed."""
    service, token = serve(), mint("p/run/", "--max-bytes", "10")
    assert ask(service, "put", token, {"key": "p/run/k", "size": 11}).status_code == 403
    put = ask(service, "put", token, {"key": "p/run/k", "size": 10}).json()
    assert http.put(put["url"], data=b"x" * 11, timeout=20).status_code == 403


def test_a_tasks_token_gets_the_tasks_grant(serve, mint, ask):
    """A token for a task's two prefixes gets a grant like its VM's, and the same one when it asks again."""
    service = serve()
    token = mint("p/hello-1/", "--prefix", "p/hello-1/out/3/2/", "--prefix", "p/hello-1/status/3/2/")
    first, again = (parse(ask(service, "grant", token, body).text) for body in (None, {"seconds": 60}))
    assert first[:3] == again[:3] == ("hello-1", "3", 2)
    assert (first.outputs.prefix, first.status.prefix) == ("p/hello-1/out/3/2/", "p/hello-1/status/3/2/")
    assert (again.outputs.prefix, again.status.prefix) == (first.outputs.prefix, first.status.prefix)
    assert again.expires < first.expires


def test_what_a_token_does_not_cover_is_refused_with_a_sentence(serve, mint, ask):
    """Another key, method, store or size, and no, a forged, an expired or a revoked token: each says why."""
    service, token = serve(), mint()
    reader = mint("p/run/", "--methods", "GET")
    short = mint("p/run/", "--expires", "1s")
    cases = [
        (ask(service, "get", token, {"keys": ["p/other/k"]}), 403, "cover"),
        (ask(service, "get", mint("q/"), {"keys": ["q/k"]}), 403, "another store"),
        (ask(service, "put", reader, {"key": "p/run/k", "size": 1}), 403, "PUT"),
        (ask(service, "get", token, {"keys": ["p/run/../k"]}), 400, "segment"),
        (ask(service, "get", token, {"keys": ["p/run/k"], "extra": 1}), 422, "extra"),
        (ask(service, "get", None, {"keys": ["p/run/k"]}), 401, "no token"),
        (ask(service, "get", token[:-2] + "xx", {"keys": ["p/run/k"]}), 401, "not one of this service"),
        (ask(service, "get", token, {"keys": ["k" * 1000] * 100}), 413, "65536"),
    ]
    for answer, status, said in cases:
        assert (answer.status_code, said in answer.text) == (status, True), answer.text
        assert set(answer.json()) == {"error", "message", "hint"}
    time.sleep(1.1)  # the shortest life that a token can have
    answer = ask(service, "get", short, {"keys": ["p/run/k"]})
    assert answer.status_code == 401
    assert "expired" in answer.text
    name = service.events()[1]["token"]
    assert app.main(["token", "--revoke", name]) == 0
    answer = ask(service, "get", token, {"keys": ["p/run/k"]})
    assert answer.status_code == 401
    assert "revoked" in answer.text


def test_every_grant_is_logged_and_no_secret_is(serve, mint, ask, store, tmp_path, state):
    """The log tells who got what until when; no signature, token, policy or key is in it. SIGTERM ends it cleanly."""
    service, token = serve(), mint()
    put = ask(service, "put", token, {"key": "p/run/k", "size": 1}).json()
    grant = ask(service, "grant", token).json()
    ask(service, "put", token, {"key": "p/other", "size": 1})
    ask(service, "get", "fpt1.forged.token.x", {"keys": ["a"]})
    assert service.stop() == 0
    events = service.events()
    assert [event["event"] for event in events] == ["listening", "PUT", "grant", "refused", "refused"]
    assert events[1]["keys"] == ["p/run/k"]
    assert events[1]["token"] == events[3]["token"] != events[4]["token"]
    text = service.log.read_text() + (tmp_path / "service.err").read_text()
    secrets = [token, token.split(".")[-1], store.secret_key, grant["outputs"]["policy"]]
    secrets += [grant["outputs"]["fields"]["x-amz-signature"], put["url"].split("X-Amz-Signature=")[1], "forged"]
    secrets.append((state / "token.key").read_text().strip())
    assert not [each for each in secrets if each in text]


def test_a_token_that_asks_too_often_waits(serve, mint, ask):
    """429 with Retry-After, for narrowed copies of the token too, and not for other tokens."""
    service, token = serve("--rate", "0.01", "--burst", "3"), mint()
    codes = [ask(service, "post", token, {}).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    answer = ask(service, "get", token, {"keys": ["p/run/k"]})
    assert int(answer.headers["Retry-After"]) >= 1
    assert ask(service, "post", mint(), {}).status_code == 200
    assert [ask(service, "post", "fpt1.a.b.c", {}).status_code for _ in range(6)] == [401, 401, 401, 429, 429, 429]
    assert sum(event["event"] == "refused" for event in service.events()) == 3  # guessing doesn't fill the log


def test_no_answer_leads_elsewhere(serve, mint, http):
    """A path with a slash too many is not there: no redirect to the host that the client named."""
    headers = {"Host": "evil.example", "Authorization": f"Bearer {mint()}"}
    answer = http.post(f"{serve().url}/v1/grant/", headers=headers, timeout=20, allow_redirects=False)
    assert (answer.status_code, "location" in answer.headers) == (404, False)


def test_a_unix_socket_is_its_owners_alone(serve, mint, tmp_path):
    """--unix listens there with mode 0600, and leaves nothing behind; a dead service's socket is taken over."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    service, token = serve("--unix", str(path)), mint()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(f"GET /v1/token HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert b" 200 OK" in answer
    assert service.stop() == 0
    assert not path.exists()


def test_tls(serve, mint, tmp_path):
    """With a certificate it speaks TLS, on any address."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run([*make.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    service, token = serve("--tls-cert", str(cert), "--tls-key", str(key)), mint()
    assert service.url.startswith("https://127.0.0.1:")
    port = int(service.url.rpartition(":")[2])
    context = ssl.create_default_context(cafile=cert)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(f"GET /v1/token HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert b" 200 OK" in wire.recv(4096)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "no such host"])
def test_no_public_address_without_tls(host):
    """Tokens never cross a network in clear: the command ends before it listens, and says what to do."""
    with pytest.raises(BadInput) as told:
        server.check(server.Address(host=host))
    assert "loopback" in told.value.message or "no address" in told.value.message


def test_loopback_and_unix_need_no_tls(tmp_path):
    """This machine's own addresses, by number or name, are fine; half a certificate is not."""
    for host in ("127.0.0.1", "::1", "127.8.8.8", "localhost"):
        server.check(server.Address(host=host))
    server.check(server.Address(host="0.0.0.0", unix=tmp_path / "s"))
    with pytest.raises(BadInput, match="tls_cert: needs --tls-key"):
        server.check(server.Address(certificate=tmp_path / "c"))
    with pytest.raises(BadInput, match="tls_key: needs --tls-cert"):
        server.check(server.Address(key=tmp_path / "k"))
    with pytest.raises(BadInput, match="can't be used"):
        server.check(server.Address(certificate=tmp_path / "c", key=tmp_path / "k"))


def test_the_limiter_refills_and_forgets():
    """A bucket fills at its rate up to its burst, each caller's alone, and the memory has a bound."""
    now = [0.0]
    limiter = Limiter(2.0, 4, lambda: now[0])
    assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert limiter.take("a") == pytest.approx(0.5)
    assert limiter.take("b", 100) == 0
    now[0] = 0.5
    assert limiter.take("a") == 0
    now[0] = 100.0
    assert limiter.take("a", 4) == 0
    for number in range(20_000):
        limiter.take(str(number))
    assert len(limiter._left) <= 10_000


def test_the_key_file_is_the_owners_alone(tmp_path):
    """It is made once, 0600; one that others can read, or that is no key, is not used."""
    path = tmp_path / "new" / "token.key"
    with pytest.raises(NotFound):
        key_store.read_key(path)
    key = key_store.read_key(path, make=True)
    assert key == key_store.read_key(path, make=True)
    assert (stat.S_IMODE(path.stat().st_mode), len(key)) == (0o600, 32)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="others can read"):
        key_store.read_key(path)
    path.chmod(0o600)
    path.write_text("secret")
    with pytest.raises(BadInput, match="not a token key"):
        key_store.read_key(path)
    assert os.listdir(path.parent) == ["token.key"]


def test_the_revoked_list_is_read_again_when_it_changes(tmp_path):
    """A line added by hand or by the command counts at once; nonsense is refused."""
    listed = key_store.RevokedTokens(tmp_path / "revoked")
    assert listed.ids() == frozenset()
    assert listed.add("0123456789abcdef")
    assert not listed.add("0123456789abcdef")
    with listed.path.open("a") as file:
        file.write("fedcba9876543210  # lost laptop\n")
    assert {"0123456789abcdef", "fedcba9876543210"} <= listed.ids()
    with pytest.raises(BadInput):
        listed.add("../x")


def test_a_revoked_list_that_ends_in_the_middle_of_a_line_goes_on(tmp_path):
    """A last line without its newline is ended before the next id, so that both count."""
    listed = key_store.RevokedTokens(tmp_path / "revoked")
    listed.path.write_text("fedcba9876543210  # lost laptop")
    assert listed.add("0123456789abcdef")
    assert listed.path.read_text() == "fedcba9876543210  # lost laptop\n0123456789abcdef\n"
    assert listed.ids() == {"0123456789abcdef", "fedcba9876543210"}


def signing(credentials, longest=timedelta(hours=12), root="p/"):
    """A signing service at NOW."""
    return SigningService(Bucket("bkt", "us-east-1", "http://h/bkt/"), root, lambda: credentials, lambda: NOW, longest)


def allowance(**more):
    """What a token allows, unless told otherwise: everything below p/, for a day."""
    ends = int((NOW + timedelta(days=1)).timestamp())
    base = {"id": "i", "bucket": "bkt", "prefixes": ("p/",), "methods": frozenset({"GET", "POST", "PUT"})}
    return Allowance(**{**base, "max_bytes": 100, "expires": ends, **more})


def test_a_signature_lives_until_the_earliest_end():
    """What was asked for, the service's own limit, the token's end and the session's: the first of them."""
    key, hour = Credentials("AK", "s"), timedelta(hours=1)
    session = Credentials("AK", "s", "t", NOW + hour / 2)
    soon = int((NOW + hour / 4).timestamp())
    ends = [
        signing(key).get(allowance(), ["p/k"], None, None),
        signing(key).get(allowance(), ["p/k"], 60, None),
        signing(key, longest=hour / 8).get(allowance(), ["p/k"], 604_800, None),
        signing(session).get(allowance(), ["p/k"], None, None),
        signing(session).get(allowance(expires=soon), ["p/k"], None, None),
    ]
    assert [each.expires - int(NOW.timestamp()) for each in ends] == [3600, 60, 450, 1800, 900]
    with pytest.raises(Expiry):
        signing(Credentials("AK", "s", "t", NOW)).get(allowance(), ["p/k"], None, None)


def test_the_services_own_prefix_bounds_every_token():
    """A token for more than the service's store, or for another bucket, gets nothing outside it."""
    key = Credentials("AK", "s")
    for who, where in ((allowance(prefixes=("q/",)), "q/k"), (allowance(bucket="other"), "p/k")):
        with pytest.raises(Refused, match="another store"):
            signing(key).get(who, [where], None, None)
    with pytest.raises(Refused, match="allow"):
        signing(key).get(allowance(methods=frozenset({"PUT"})), ["p/k"], None, None)
    with pytest.raises(BadInput, match="several"):
        signing(key).grant(allowance(prefixes=("p/a/", "p/b/")), None, None, None)
    with pytest.raises(BadInput, match="both"):
        signing(key).post(allowance(), "p/k", "p/", None, None)


def test_credentials_are_found_again_before_they_end():
    """A service outlives its sessions: it asks for new ones ten minutes before."""
    ends = iter([NOW + timedelta(minutes=30), NOW + timedelta(hours=2)])
    now = [NOW]
    renewed = role_session.RefreshingCredentials(lambda: Credentials("AK", "s", "t", next(ends)), lambda: now[0])
    assert renewed() is renewed()
    now[0] = NOW + timedelta(minutes=21)
    assert renewed().expires == NOW + timedelta(hours=2)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["s3://b/"],
        ["s3://b/p", "--show", "f"],
        ["s3://b/p", "--expires", "never"],
        ["s3://b/p", "--methods", "DELETE"],
        ["s3://b/x/", "--prefix", "y/"],
        ["s3://b/x/", "--prefix", "x/a/", "--prefix", "xy/"],
    ],
)
def test_a_token_that_makes_no_sense_is_refused(words, state, capfd):
    """Exit 2 with a sentence; nothing is printed on standard output."""
    assert app.main(["token", *words]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("provision: ")


def test_a_token_that_is_refused_leaves_no_key(state):
    """What a new token is for is checked before the key is made that would sign it."""
    assert app.main(["token", "s3://b/x/", "--prefix", "y/"]) == 2
    assert not state.exists()


def test_a_token_is_narrowed_and_shown_by_the_command(mint, state, tmp_path, capfd):
    """Tokens come from files, never from the command line; narrowing needs no key."""
    path = tmp_path / "token"
    path.write_text(mint())
    (state / "token.key").unlink()
    assert (
        app.main(["token", "--narrow", str(path), "--prefix", "p/run/a/", "--methods", "get", "--max-bytes", "1kB"])
        == 0
    )
    path.write_text(capfd.readouterr().out)
    assert app.main(["token", "--show", str(path), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["prefixes"], shown["methods"], shown["max_bytes"]) == (["p/run/a/"], ["GET"], 1000)
    assert not Path(state / "token.key").exists()


def test_a_jobs_token_is_for_one_task(provision, state, opened, bucket, store, monkeypatch):
    """Without --task only a job of one task has a token; it is for two prefixes, never for the job's whole folder."""
    spec = JobSpec("hello", RunSpec(("true",)))
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    for job, array in (("one-1", ()), ("many-1", (0, 1))):
        made = JobRecord(job, replace(spec, array=array), "local", at, at, at)
        opened.put(JobKeys("p", job).record, record.dump(made))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    place = ["--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url]
    found = json.loads(provision("token", "one-1", *place, "--json").out)
    assert found["prefixes"] == ["p/one-1/out/0/1/", "p/one-1/status/0/1/"]
    done = provision("token", "many-1", *place)
    assert (done.code, "--task" in done.err) == (2, True)
    found = json.loads(provision("token", "many-1", "--task", "1", *place, "--json").out)
    assert found["prefixes"] == ["p/many-1/out/1/1/", "p/many-1/status/1/1/"]
