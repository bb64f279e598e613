"""Ending a job's VMs."""

from datetime import datetime, timezone

import pytest

from provisioner.errors import NoCredentials, Refused
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs.record import JobRecord
from provisioner.jobs.terminate import terminate
from provisioner.providers.base import Instance
from provisioner.providers.elsewhere import ElsewhereProvider

NOW = datetime(2026, 11, 27, tzinfo=timezone.utc)
RECORDED, UNRECORDED = (Instance(name, "0", attempt) for name, attempt in (("i-1", 1), ("i-2", 2)))
RECORD = JobRecord("x-1", JobSpec("x", RunSpec(("true",))), "p", NOW, NOW, NOW, (RECORDED,))


class Fleet(ElsewhereProvider):
    """A provider that knows both VMs, and may fail to end them."""

    def __init__(self, error=None):
        self.ended, self.error = [], error

    def list_instances(self, job):
        """Return both VMs of the job."""
        return [RECORDED, UNRECORDED] if job == "x-1" else []

    def terminate(self, instances):
        """Note what is ended."""
        self.ended += instances
        if self.error:
            raise self.error


def test_the_vms_of_an_interrupted_launch_are_ended_too():
    """What the record doesn't name is found by the job's id; each VM is ended and counted once."""
    fleet = Fleet()
    assert terminate(fleet, RECORD) == 2
    assert fleet.ended == [RECORDED, UNRECORDED]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (Refused("it is in use"), "run the same command again: it goes on with those that are left"),
        (NoCredentials("no keys", hint="sign in"), "sign in"),
    ],
)
def test_a_failure_says_what_to_do(error, hint):
    """The provider's own advice, or that the command can be run again."""
    with pytest.raises(type(error)) as caught:
        terminate(Fleet(error), RECORD)
    assert caught.value.hint == hint
