"""Finds a job again: by its s3:// URL, or by its id through a small index of where this machine launched jobs.

The bucket is the only state; the index is a convenience, and losing it costs typing a URL.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from provisioner import atomic
from provisioner.errors import NotFound
from provisioner.s3url import StoreSpec, is_s3_url, parse_url


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
