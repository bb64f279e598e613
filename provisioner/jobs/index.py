"""Finds a job again: by its s3:// URL, or by its id through a small index of where this machine launched jobs.

The bucket is the only state; the index is a convenience, and losing it costs typing a URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from provisioner import atomic
from provisioner.errors import BadInput, NotFound
from provisioner.jobs import record as records
from provisioner.jobs.record import JobRecord
from provisioner.plan import put_outputs
from provisioner.plan.layout import JobKeys
from provisioner.s3.bucket import Store
from provisioner.s3url import StoreSpec, is_s3_url, parse_url, show_url


@dataclass(frozen=True)
class StoreLocation:
    """A store, and whether it is the embedded one, whose address and keys are its own affair."""

    store: StoreSpec
    embedded: bool


class JobIndex:
    """One file a job below `folder`, naming the store it is in. Holds no credential."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, job: str, store: StoreSpec, *, embedded: bool) -> None:
        """Note where a job lies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{job}.json"
        atomic.write(path, json.dumps({"store": dataclasses.asdict(store), "embedded": embedded}))

    def forget(self, job: str) -> None:
        """Drop a job that was removed."""
        (self._folder / f"{job}.json").unlink(missing_ok=True)

    def find(self, job: str) -> StoreLocation | None:
        """Where a job lies, if this machine launched it."""
        try:
            found = json.loads((self._folder / f"{job}.json").read_text())
            return StoreLocation(StoreSpec(**found["store"]), bool(found["embedded"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def locate(job: str, *, location: StoreLocation | None, index: JobIndex) -> tuple[StoreLocation, str]:
    """Return the store and the id of what the operator calls `job`: an id, or s3://BUCKET/PREFIX/ID.

    `location` is the store the operator named, if any.
    """
    if is_s3_url(job):
        bucket, path = parse_url(job)
        prefix, _, name = path.strip("/").rpartition("/")
        base = location or StoreLocation(StoreSpec(bucket), embedded=False)
        return StoreLocation(dataclasses.replace(base.store, bucket=bucket, prefix=prefix), base.embedded), name
    found = location or index.find(job)
    if found is None:
        message = f"this machine knows no job {job!r}"
        raise NotFound(
            message, hint="give its URL (s3://BUCKET/PREFIX/JOB), or --store; `provision jobs` lists a store's jobs"
        )
    return found, job


def read(store: Store, job: str) -> JobRecord:
    """Read a job's record. Raise NotFound when the store has none of that id."""
    if not job or "/" in job:
        message = f"{job!r} is no job id"
        raise BadInput(message)
    keys = JobKeys(store.prefix, job)
    try:
        return records.parse(store.get(keys.record), keys.record)
    except NotFound:
        message = f"there is no job {job} in {show_url(store.bucket.name, store.prefix)}"
        raise NotFound(message, hint="`provision jobs` lists those there are") from None


def remove(store: Store, record: JobRecord) -> int:
    """Delete everything of a job from the bucket, its record last. Return how many objects there were."""
    keys = JobKeys(store.prefix, record.job)
    if any(put_outputs.is_large(item) for item in record.spec.outputs) and record.spec.method == "put":
        for key, upload in store.uploads(keys.root):
            with contextlib.suppress(NotFound):
                store.abort_upload(key, upload)
    found = [item.key for item in store.list(keys.root)]
    store.delete([key for key in found if key != keys.record])
    store.delete([key for key in found if key == keys.record])
    return len(found)


def listing(store: Store) -> list[str]:
    """The ids of the jobs in a store, by name."""
    prefix = f"{store.prefix}/" if store.prefix else ""
    return [name for name in store.folders(prefix) if not name.startswith(".")]
