"""Signing: equal to boto3's own, exact in time, refused when it would die too early."""

import base64
import json
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore.auth
import pytest
from botocore.config import Config

from provisioner.errors import BadInput, Expiry
from provisioner.s3 import signing
from provisioner.s3.signing import Bucket, Credentials

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
BUCKET = Bucket("results", "eu-central-1", "https://results.s3.eu-central-1.amazonaws.com/")
CREDENTIALS = Credentials("AKIDEXAMPLE", "a secret", "a token")


@pytest.fixture
def frozen(monkeypatch):
    """Let botocore's signers read NOW from the clock."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_: NOW.replace(tzinfo=None))


def boto_client():
    """A client with the same credentials and region."""
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    return boto3.client(
        "s3",
        region_name=BUCKET.region,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        aws_session_token=CREDENTIALS.token,
        config=config,
    )


@pytest.mark.usefixtures("frozen")
def test_a_post_policy_is_signed_as_boto3_signs_it():
    """For the same document, boto3's SigV4 POST signer gives the same fields and the same signature."""
    document = signing.policy_document("results", "p/", expires=NOW + timedelta(hours=1), max_bytes=10)
    target = signing.RequestSigner(BUCKET, CREDENTIALS, NOW).sign_policy("p/", document)
    signer = botocore.auth.S3SigV4PostAuth(signing._boto(CREDENTIALS), "s3", BUCKET.region)
    request = signing._request("POST", BUCKET.url, NOW)
    request.context["s3-presign-post-policy"] = json.loads(json.dumps(document))
    signer.add_auth(request)
    theirs = request.context["s3-presign-post-fields"]
    assert json.loads(base64.b64decode(theirs.pop("policy"))) == json.loads(target.policy)
    signature = signer.signature(base64.b64encode(target.policy.encode()).decode(), request)
    assert target.fields == {**theirs, "x-amz-signature": signature}


def test_a_presigned_url_is_boto3s_own():
    """A presigned GET has the very parameters, signature included, of generate_presigned_url at the same moment."""
    params = {"Bucket": "results", "Key": "p/a b+ü.txt"}
    theirs = urlsplit(boto_client().generate_presigned_url("get_object", Params=params, ExpiresIn=300))
    then = datetime.strptime(dict(parse_qsl(theirs.query))["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    lifetime = timedelta(minutes=5)
    ours = urlsplit(signing.RequestSigner(BUCKET, CREDENTIALS, then).presign("GET", params["Key"], lifetime))
    assert ours[:3] == theirs[:3]
    assert dict(parse_qsl(ours.query)) == dict(parse_qsl(theirs.query))


def test_every_field_has_its_condition():
    """The policy covers the key, the bucket, the size, the checksum and every x-amz field, and names exact values."""
    document = signing.policy_document("results", "p/", expires=NOW + timedelta(hours=1), max_bytes=10)
    target = signing.RequestSigner(BUCKET, CREDENTIALS, NOW).sign_policy("p/", document)
    conditions = json.loads(target.policy)["conditions"]
    assert conditions[:4] == [
        {"bucket": "results"},
        ["starts-with", "$key", "p/"],
        ["content-length-range", 0, 10],
        ["starts-with", "$x-amz-checksum-sha256", ""],
    ]
    for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-security-token"):
        assert {name: target.fields[name]} in conditions


def test_the_secret_key_is_nowhere():
    """Neither the target nor a repr holds the secret key, and a repr holds no token or signature either."""
    target = signing.RequestSigner(BUCKET, CREDENTIALS, NOW).sign_prefix(
        "p/", expires=NOW + timedelta(hours=1), max_bytes=10
    )
    assert "a secret" not in "".join([target.policy, *target.fields.values(), repr(target), repr(CREDENTIALS)])
    assert "a token" not in repr(CREDENTIALS) + repr(target)
    assert target.fields["x-amz-signature"] not in repr(target)


@pytest.mark.parametrize(
    ("endpoint", "bucket", "options", "url"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "b", {}, "https://b.s3.eu-central-1.amazonaws.com/"),
        ("https://s3.eu-central-1.amazonaws.com", "b.c", {}, "https://s3.eu-central-1.amazonaws.com/b.c/"),
        ("http://127.0.0.1:8333", "b", {"custom": True}, "http://127.0.0.1:8333/b/"),
        ("https://minio.example/s3/", "b", {"custom": True}, "https://minio.example/s3/b/"),
        ("https://minio.example", "b", {"custom": True, "addressing": "virtual"}, "https://b.minio.example/"),
        ("https://s3.us-east-1.amazonaws.com", "b", {"addressing": "path"}, "https://s3.us-east-1.amazonaws.com/b/"),
    ],
)
def test_bucket_urls(endpoint, bucket, options, url):
    """A bucket is addressed by virtual host on AWS, by path elsewhere and where its name has dots, or as asked."""
    assert signing.bucket_url(endpoint, bucket, **options) == url


def test_credentials_that_die_before_the_job_are_refused():
    """The refusal names both times."""
    short = Credentials("k", "s", "t", expires=NOW + timedelta(minutes=30))
    with pytest.raises(Expiry) as caught:
        signing.check_lifetime(
            short, now=NOW, needed_until=NOW + timedelta(hours=2), what="job hello", shorten="run.timeout"
        )
    assert "2026-11-23 20:30:00 UTC" in caught.value.message
    assert "2026-11-23 22:00:00 UTC" in caught.value.message
    assert caught.value.hint.endswith("or shorten run.timeout")
    assert caught.value.exit_code == 4


def test_nothing_lives_longer_than_sigv4_allows():
    """Seven days are the most, for a job and for a presigned URL."""
    week = timedelta(days=7)
    signing.check_lifetime(CREDENTIALS, now=NOW, needed_until=NOW + week, what="job", shorten="run.timeout")
    with pytest.raises(BadInput, match="7 days"):
        signing.check_lifetime(
            CREDENTIALS, now=NOW, needed_until=NOW + week + timedelta(seconds=1), what="job", shorten="run.timeout"
        )
    with pytest.raises(BadInput, match="7 days"):
        signing.RequestSigner(BUCKET, CREDENTIALS, NOW).presign("GET", "k", week + timedelta(seconds=1))
