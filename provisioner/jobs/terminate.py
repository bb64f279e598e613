"""Ends the VMs of a job."""

from __future__ import annotations

from provisioner.errors import FreepostError
from provisioner.jobs.record import JobRecord
from provisioner.providers.base import Provider


def terminate(provider: Provider, record: JobRecord) -> int:
    """End every VM of a job, also those that an interrupted launch didn't record. Return how many were known."""
    try:
        known = dict.fromkeys(item.id for item in record.instances)
        more = [item for item in provider.list_instances(record.job) if item.id not in known]
        provider.terminate([*record.instances, *more])
    except FreepostError as error:
        error.hint = error.hint or "run the same command again: it goes on with those that are left"
        raise
    return len(record.instances) + len(more)
