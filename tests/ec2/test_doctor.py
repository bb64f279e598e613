"""What `provision doctor` finds out of bucket, credentials and quota, line by line."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import botocore.exceptions as boto_errors
import pytest

from provisioner.jobs import doctor
from provisioner.providers.ec2 import preflight
from provisioner.providers.ec2.api import Api
from provisioner.s3.bucket import Store
from provisioner.s3.signing import Bucket, Credentials
from tests.ec2.conftest import provider
from tests.ec2.gateway import Fault


class Client:
    """An S3 client that answers HeadBucket alone."""

    def __init__(self, status, headers):
        self.status, self.headers = status, headers

    def head_bucket(self, **_):
        """Answer as S3 does: whatever the status, the region may be in a header."""
        answer = {"ResponseMetadata": {"HTTPStatusCode": self.status, "HTTPHeaders": self.headers}}
        if self.status == 200:
            return answer
        raise boto_errors.ClientError({**answer, "Error": {"Code": str(self.status)}}, "HeadBucket")


@pytest.mark.parametrize(
    ("status", "region", "good", "said"),
    [
        (200, "eu-west-1", True, "b in eu-west-1, at https://b.example, as it says"),
        (200, None, True, "b in eu-west-1, at https://b.example"),
        (200, "us-east-2", False, "it is in us-east-2"),
        (301, "us-east-2", False, "it is in us-east-2"),
        (403, "eu-west-1", True, "as it says"),
        (403, None, None, "the store answered 403"),
        (404, None, False, "there is no b in eu-west-1"),
        (500, None, False, "the store answered 500"),
    ],
)
def test_the_bucket_says_where_it_is(status, region, good, said):
    """The bucket's own region is compared with the one that is signed for; what isn't there is a no."""
    client = Client(status, {"x-amz-bucket-region": region} if region else {})
    found = doctor._bucket(Store(client, Bucket("b", "eu-west-1", "https://b.example"), "p", Credentials("a", "s")))
    assert found.good is good
    assert said in found.text
    assert bool(found.hint) is (good is not True)


def lines(options, vms=1):
    """What the provider says of itself, by name."""
    return {each.name: each for each in provider(options).checks(options, vms)}


@pytest.mark.parametrize(("hours", "good"), [(None, True), (1, True), (0.1, False)])
def test_the_session_that_launches_has_its_end_named(options, monkeypatch, hours, good):
    """EC2's own credentials, which may be another profile's than the store's, are shown with their end."""
    ends = hours and datetime.now(timezone.utc) + timedelta(hours=hours)
    monkeypatch.setattr("provisioner.providers.ec2.api.Api.credentials_expire", ends)
    line = lines(options)["ec2 credentials"]
    assert line.good is good
    assert ("long-lived" if hours is None else f"they end at {ends:%Y-%m-%dT%H:%M:%SZ}") in line.text
    assert line.hint == ("" if good else "sign in again")


@pytest.mark.parametrize("code", ["InvalidAction", "InvalidClientTokenId", "AccessDenied"])
def test_a_cloud_without_sts_is_examined_all_the_same(options, cloud, code):
    """Whose the credentials are isn't known there; image, places and dry run are asked."""
    cloud.inject("GetCallerIdentity", Fault(code))
    found = lines(options)
    assert found["ec2 credentials"].good is None
    assert found["ec2 credentials"].hint
    assert found["image"].good is True
    assert found["dry run: t3.small, on-demand"].good is True


@pytest.mark.parametrize(
    ("kind", "standard"),
    [
        *((kind, True) for kind in ("c7g.large", "t3.small", "m5dn.large", "i4i.large", "im4gn.large", "d3en.xlarge")),
        *((kind, False) for kind in ("hpc6a.48xlarge", "inf1.xlarge", "trn1.2xlarge", "dl1.24xlarge", "mac1.metal")),
        *((kind, False) for kind in ("g4dn.xlarge", "p3.2xlarge", "u-6tb1.metal", "x1e.xlarge")),
    ],
)
def test_a_family_is_standard_by_its_whole_name(kind, standard):
    """`h1` is of the standard families, `hpc6a` is not: it has a quota of its own."""
    assert bool(preflight._STANDARD.match(kind)) is standard


def test_a_family_with_a_quota_of_its_own_is_not_counted(options, cloud, monkeypatch):
    """Of c5 and inf1 the vCPUs of c5 are compared with the standard quota; of inf1 it is said that they aren't."""
    ask = Api.call

    def call(self, action, *words, **more):  # moto has no quotas of EC2
        return {"Quota": {"Value": 5.0}} if action == "get_service_quota" else ask(self, action, *words, **more)

    monkeypatch.setattr(Api, "call", call)
    found = lines({**options, "type": ["c5.large", "inf1.xlarge"]}, 3)
    assert found["quota, on-demand"].good is False
    assert found["quota"].good is None
    assert "inf1.xlarge" in found["quota"].text
    assert "c5.large" not in found["quota"].text
    assert "3 VMs need up to 6 vCPUs" in found["quota, on-demand"].text
