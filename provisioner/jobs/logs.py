"""What tasks printed: the log segments that they uploaded, or the console of a VM that uploaded none."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.jobs import status
from provisioner.jobs.record import JobRecord, keys_of
from provisioner.providers.base import Provider
from provisioner.s3.bucket import Store


def logs(store: Store, provider: Provider, record: JobRecord, task: str | None) -> Iterator[bytes]:
    """What the tasks printed, one task after the other; the VM's console for one that uploaded nothing."""
    found = status.read_tasks(store, record, task)
    for item in found:
        if len(found) > 1:
            yield f"== task {item.task}, attempt {item.attempt}: {item.event}\n".encode()
        uploaded = False
        for piece in log(store, record, item.task, item.attempt):
            uploaded = True
            yield piece
        if not uploaded:
            for instance in record.instances:
                if (instance.task, instance.attempt) == (item.task, item.attempt):
                    yield provider.console(instance)


def log(store: Store, record: JobRecord, task: str, attempt: int) -> Iterator[bytes]:
    """The log segments of an attempt, in order."""
    prefix = keys_of(store, record).log(task, attempt)
    for entry in store.list(prefix):
        yield store.get(entry.key)
