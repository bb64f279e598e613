"""Who signs: sessions of a role, when STS has no time for one."""

from datetime import datetime, timedelta, timezone

import pytest
from botocore.exceptions import ClientError

from provisioner.errors import Unreachable
from provisioner.job.spec import JobSpec, RunSpec, SignerSpec
from provisioner.jobs import role_session
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.retry import Retry
from provisioner.s3.signing import Bucket, Credentials

NOW = datetime(2026, 11, 27, 17, 0, 0, tzinfo=timezone.utc)


class Sts:
    """Answers 503 so many times, and then with a session."""

    def __init__(self, busy):
        self.busy = busy
        self.asked = 0

    def assume_role(self, **_):
        """Answer."""
        self.asked += 1
        if self.asked <= self.busy:
            answer = {"Error": {"Code": "ServiceUnavailable"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(answer, "AssumeRole")
        session = {"AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": "t"}
        return {"Credentials": {**session, "Expiration": NOW + timedelta(hours=12)}}


@pytest.mark.parametrize(("busy", "tries"), [(2, 3), (9, 5)])
def test_a_busy_sts_is_asked_again(monkeypatch, busy, tries):
    """A session that can't be had this moment is asked for again; in the end the error says that it may work later."""
    monkeypatch.setattr(role_session, "DEFAULT_RETRY", Retry(sleep=lambda _: None))
    spec = JobSpec("j", RunSpec(("true",), timeout=60), signer=SignerSpec("arn:aws:iam::123456789012:role/signer"))
    bucket = Bucket("b", "eu-west-1", "https://b.s3.eu-west-1.amazonaws.com/")
    plan = make_plan(
        LaunchRequest(spec, job="j-1", bucket=bucket, prefix="p", provider="x", user_data_limit=16384, now=NOW)
    )
    sts = Sts(busy)
    who = role_session.RoleSessions(Credentials("k", "s"), lambda *_: sts, lambda: NOW)
    if busy < tries:
        assert who.credentials(plan, plan.tasks[0]).token == "t"
    else:
        with pytest.raises(Unreachable, match="assume the role"):
            who.credentials(plan, plan.tasks[0])
    assert sts.asked == tries
