"""What `provision doctor` finds out about a store."""

from datetime import datetime, timezone

from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import doctor


def test_what_the_doctor_writes_has_a_folder_of_its_own_and_goes_again(opened):
    """It posts below .doctor/ in the store's prefix, where nothing of a job is, and leaves nothing behind."""
    found = list(doctor.of_store(opened, JobSpec("x", RunSpec(("true",))), datetime.now(timezone.utc)))
    assert {each.name: each.good for each in found} == {
        "signing credentials": True,
        "bucket": True,
        "write through a policy": True,
        "read, list and delete": True,
    }
    assert "a form posted below p/.doctor/ was taken" in [each.text for each in found]
    assert not opened.list("p/.doctor")
