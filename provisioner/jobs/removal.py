"""Deletes a job from its bucket."""

from __future__ import annotations

import contextlib

from provisioner.errors import NotFound
from provisioner.jobs.record import JobRecord, keys_of
from provisioner.plan import put_outputs
from provisioner.s3.bucket import Store


def remove(store: Store, record: JobRecord) -> int:
    """Delete everything of a job from the bucket, its record last. Return how many objects there were."""
    keys = keys_of(store, record)
    if any(put_outputs.is_large(item) for item in record.spec.outputs) and record.spec.method == "put":
        for key, upload in store.uploads(keys.root):
            with contextlib.suppress(NotFound):
                store.abort_upload(key, upload)
    found = [item.key for item in store.list(keys.root)]
    store.delete([key for key in found if key != keys.record])
    store.delete([key for key in found if key == keys.record])
    return len(found)
