"""The server enforces the POST policy: what the agent's own check would stop is sent past it, with `requests`.

Every refusal is asserted three ways: the status, S3's error code, and that no object came to be. Each differs from the
accepted form in the one thing that the test names.
"""

import base64
import io
from datetime import datetime, timedelta, timezone

import pytest

from agent.check import violations
from provisioner.embedded import server
from provisioner.s3.signing import Bucket, Credentials, RequestSigner, bucket_url, checksum_sha256
from tests.support.rgw import Rgw

PREFIX = "p/hello-7f3k/out/0/1/"
LIMIT = 1000
BODY = b"what the job made\n"


@pytest.fixture(scope="session")
def s3(each_store):
    """A client of each store in turn, with the operator's keys."""
    with server.connect(each_store) as client:
        yield client


@pytest.fixture
def sign(each_store, bucket):
    """Sign a target of the bucket, from `age` ago, for one hour unless told otherwise."""

    def signed(*, lifetime=timedelta(hours=1), age=timedelta(0), secret_key=each_store.secret_key):
        now = datetime.now(timezone.utc) - age
        place = Bucket(bucket, each_store.region, bucket_url(each_store.endpoint_url, bucket, custom=True))
        credentials = Credentials(each_store.access_key, secret_key)
        return RequestSigner(place, credentials, now).sign_prefix(PREFIX, expires=now + lifetime, max_bytes=LIMIT)

    return signed


@pytest.fixture
def target(sign):
    """A good target: any key below PREFIX, at most LIMIT bytes, for an hour."""
    return sign()


@pytest.fixture
def forged(each_store):
    """What the store says of a signature that isn't one; RGW 16.2 says no more than that access is denied."""
    return ("AccessDenied",) if isinstance(each_store, Rgw) else ("SignatureDoesNotMatch",)


@pytest.fixture
def post(http):
    """Post a form as it is, with the file last, and return the response."""

    def send(url, form, body=BODY):
        fields = [(name, (None, value)) for name, value in form.items()]
        return http.post(url, files=[*fields, ("file", ("name", io.BytesIO(body)))], timeout=30)

    return send


@pytest.fixture
def keys(s3, bucket):
    """List every key of the bucket."""
    return lambda: [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]


def made(target, key, body=BODY):
    """The form that the agent makes: with the checksum of the file, and every field covered."""
    return target.form(key=key, **{"x-amz-checksum-sha256": checksum_sha256(body)})


def refused(response, *codes):
    """Hold a response to be S3's refusal, with one of these codes."""
    assert response.status_code in (400, 403), response.text
    assert any(f"<Code>{code}</Code>" in response.text for code in codes), response.text
    return True


def test_the_right_form_is_accepted(target, post, keys, s3, bucket):
    """The form that the agent would send is stored as it is, below the prefix."""
    form = made(target, PREFIX + "a/b.txt")
    assert violations(target.policy, form, len(BODY), datetime.now(timezone.utc).timestamp()) == []
    assert post(target.url, form).status_code == 204
    assert keys() == [PREFIX + "a/b.txt"]
    assert s3.get_object(Bucket=bucket, Key=PREFIX + "a/b.txt")["Body"].read() == BODY


def test_a_file_of_exactly_the_limit_is_accepted(target, post, keys):
    """content-length-range includes its ends, and counts the file alone."""
    for size in (0, LIMIT):
        assert post(target.url, made(target, f"{PREFIX}{size}", b"x" * size), b"x" * size).status_code == 204
    assert len(keys()) == 2


@pytest.mark.parametrize("size", [LIMIT + 1, 50 * LIMIT, 20_000 * LIMIT])
def test_a_file_over_the_limit_is_refused(target, post, keys, size):
    """One byte too many, or 20 MB, never becomes an object."""
    body = b"x" * size
    assert refused(post(target.url, made(target, PREFIX + "big", body), body), "EntityTooLarge")
    assert keys() == []


@pytest.mark.parametrize(
    "key",
    [
        "elsewhere",
        "p/hello-7f3k/out/0/2/other-attempt",
        "p/hello-7f3k/out/1/1/other-task",
        "p/hello-7f3k/status/0/1/succeeded",
        "p/hello-7f3k/out/0/1",
        "P/hello-7f3k/out/0/1/case",
        "/p/hello-7f3k/out/0/1/slash",
        "x/p/hello-7f3k/out/0/1/inside",
    ],
)
def test_a_key_outside_the_prefix_is_refused(target, post, keys, key):
    """A VM can't write where another task, another attempt, its status or anything else is."""
    assert refused(post(target.url, made(target, key)), "AccessDenied")
    assert keys() == []


@pytest.mark.parametrize("climb", ["../2/other-attempt", "x/../../2/other-attempt", "../../../status/0/1/succeeded"])
def test_dots_in_a_key_climb_nowhere(target, post, keys, climb):
    """A key that begins right and climbs with `..` is refused or is an object of that very name, below the prefix."""
    post(target.url, made(target, PREFIX + climb))
    assert all(key.startswith(PREFIX) for key in keys())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PREFIX, ""),
        (f"0,{LIMIT}]", "0,9999999]"),
        ('"expiration":"20', '"expiration":"21'),
    ],
    ids=["prefix", "size", "expiration"],
)
def test_a_changed_policy_is_refused(target, post, keys, forged, old, new):
    """A policy that allows more than the signed one doesn't match its signature."""
    changed = target.policy.replace(old, new)
    assert changed != target.policy
    assert refused(post(target.url, made(target._replace(policy=changed), PREFIX + "k")), *forged)
    assert keys() == []


def test_a_policy_of_other_bytes_is_refused(target, post, keys, forged):
    """Even a space that means nothing breaks the signature: the agent must send the very bytes that were signed."""
    form = made(target, PREFIX + "k")
    form["policy"] = base64.b64encode(target.policy.encode() + b" ").decode()
    assert refused(post(target.url, form), *forged)
    assert keys() == []


def test_a_changed_signature_is_refused(target, post, keys, forged):
    """One other hexadecimal digit is enough."""
    form = made(target, PREFIX + "k")
    last = form["x-amz-signature"][-1]
    form["x-amz-signature"] = form["x-amz-signature"][:-1] + ("0" if last != "0" else "1")
    assert refused(post(target.url, form), *forged)
    assert keys() == []


def test_a_signature_by_another_key_is_refused(sign, post, keys, forged):
    """Who knows the access key but not the secret signs nothing."""
    other = sign(secret_key="another secret")
    assert refused(post(other.url, made(other, PREFIX + "k")), *forged)
    assert keys() == []


@pytest.mark.parametrize("field", ["policy", "x-amz-signature", "x-amz-credential", "x-amz-date"])
def test_a_form_without_its_signature_is_refused(target, post, keys, field):
    """Leaving out what proves the policy doesn't make the request an anonymous one that is let in."""
    form = made(target, PREFIX + "k")
    del form[field]
    assert post(target.url, form).status_code in (400, 403)
    assert keys() == []


def test_an_expired_policy_is_refused(sign, post, keys):
    """A policy that ended a second ago is dead, however good its signature."""
    dead = sign(lifetime=timedelta(minutes=10), age=timedelta(minutes=10, seconds=1))
    response = post(dead.url, made(dead, PREFIX + "k"))
    assert refused(response, "AccessDenied")
    assert "expired" in response.text.lower()
    assert keys() == []


def test_a_checksum_is_verified(target, post, keys, each_store):
    """The sha256 field is checked against the file, so that what was damaged on its way never becomes an object.

    RGW 16.2 takes the field and checks nothing; there only the manifest tells.
    """
    good = made(target, PREFIX + "good")
    assert post(target.url, good).status_code == 204
    bad = made(target, PREFIX + "bad", BODY + b"?")
    if isinstance(each_store, Rgw):
        assert post(target.url, bad).status_code == 204
        return
    assert refused(post(target.url, bad), "BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch")
    assert keys() == [PREFIX + "good"]


@pytest.mark.parametrize("field", ["x-amz-meta-note", "x-amz-storage-class", "x-amz-website-redirect-location"])
def test_a_field_that_the_policy_does_not_cover_is_refused(target, post, keys, field):
    """A field of S3's own must have a condition."""
    form = {**made(target, PREFIX + "k"), field: "STANDARD"}
    assert refused(post(target.url, form), "AccessDenied")
    assert keys() == []


def test_a_policy_of_one_bucket_opens_no_other(target, post, s3, each_store, bucket):
    """The same form, posted at another bucket of the same owner, is refused."""
    other = f"{bucket}-other"
    s3.create_bucket(Bucket=other)
    assert refused(post(f"{each_store.endpoint_url}/{other}/", made(target, PREFIX + "k")), "AccessDenied")
    assert "Contents" not in s3.list_objects_v2(Bucket=other)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_a_policy_lets_nobody_do_anything_but_post(target, post, http, keys, method):
    """With a grant in hand the bucket can't be listed, and no object read, replaced by PUT or deleted."""
    assert post(target.url, made(target, PREFIX + "k")).status_code == 204
    for url in (target.url, target.url + PREFIX + "k"):
        assert http.request(method, url, data=BODY * 2, params=dict(target.fields), timeout=30).status_code in (
            400,
            403,
        )
    assert keys() == [PREFIX + "k"]


def test_the_agents_own_check_agrees_with_the_server(sign, target, post):
    """What the server refuses the local evaluation refuses too, so that no byte is sent for it."""
    now = datetime.now(timezone.utc).timestamp()
    dead = sign(lifetime=timedelta(minutes=10), age=timedelta(hours=1))
    small, big = BODY, b"x" * (LIMIT + 1)
    cases = [
        (target, made(target, PREFIX + "k"), small),
        (target, made(target, "elsewhere"), small),
        (target, made(target, PREFIX + "k", big), big),
        (target, {**made(target, PREFIX + "k"), "x-amz-meta-a": "b"}, small),
        (dead, made(dead, PREFIX + "k"), small),
    ]
    for at, form, body in cases:
        locally = not violations(at.policy, form, len(body), now)
        assert locally == (post(at.url, form, body).status_code == 204)
