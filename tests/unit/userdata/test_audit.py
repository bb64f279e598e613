"""The audit: what each secret allows, and where it lies, for jobs that no machine here can run."""

import pytest

from provisioner.errors import BadInput
from provisioner.userdata import audit, render
from tests.unit.userdata.test_combinations import FACTORS, job, launcher


@pytest.fixture
def audited(tmp_path):
    """Audit the first task of a job of 100 on EC2 that differs from the plainest in what is given."""

    def run(**differs):
        case = {name: values[0] for name, values in FACTORS.items()} | differs
        one = launcher(case)
        plan = one.plan(job(case, tmp_path))
        grant, user_data = one.render(plan, plan.tasks[0])
        found = {each.name: each for each in audit.find_secrets(plan, grant, user_data, "ec2")}
        return plan, found, grant

    return run


def test_ec2_hands_user_data_out(audited):
    """The metadata service, EC2's API and the volume have it; the job's user is kept from the first of them."""
    _, found, _ = audited(user="job")
    places = {place.where: place for place in found["POST policy: outputs"].places}
    (service,) = (place for where, place in places.items() if where.startswith("IMDS"))
    assert "169.254.169.254" in service.where
    assert "but not" in service.readers
    assert "ec2:DescribeInstanceAttribute" in places["EC2's API"].readers
    _, as_root, _ = audited(user=None)
    (service,) = (place for place in as_root["POST policy: outputs"].places if place.where.startswith("IMDS"))
    assert service.readers.endswith("too")


def test_puts_and_a_grant_in_the_bucket(audited):
    """Slots say what they may write, an upload in parts is a secret of its own, and a grant in the bucket holds all."""
    plan, found, _ = audited(method="put", token=2000, inputs=40)
    assert plan.remote_grant
    assert "out/result.csv" in found["presigned PUTs: outputs"].allows
    assert "up to 5 GiB each" in found["presigned PUTs: outputs"].allows
    assert "parts" in found["presigned upload in parts: out/result.csv"].allows
    assert "session token" in found
    key = plan.keys.grant(plan.tasks[0].task, 1)
    assert key in found["presigned GET: the grant"].allows
    assert any(place.where.endswith(key) for place in found["presigned PUTs: outputs"].places)
    assert plan.archive.key in found["presigned GET: the agent"].allows


def test_nothing_secret_is_shown(audited):
    """No signature, policy, session token or presigned query of the grant is in anything that the audit says."""
    _, found, grant = audited(token=2000, inputs=1)
    (source,) = grant.inputs
    secrets = [source["url"].partition("?")[2]]
    for target in (grant.outputs, grant.status):
        fields = {name.lower(): value for name, value in target.fields.items()}
        secrets += [target.policy, fields["x-amz-signature"], fields["x-amz-security-token"]]
    assert len(secrets) == 7
    assert not [secret for secret in secrets if secret in repr(found)]


def test_a_document_without_a_grant_is_refused(audited, tmp_path):
    """What isn't there can't be audited; that is a sentence."""
    case = {name: values[0] for name, values in FACTORS.items()}
    one = launcher(case)
    plan = one.plan(job(case, tmp_path))
    grant, _ = one.render(plan, plan.tasks[0])
    with pytest.raises(BadInput, match="no grant"):
        audit.find_secrets(plan, grant, render.UserData(plain=b"", data=b"", files=()), "ec2")
