"""A job as an object: what can be done with one that was launched. `provisioner.api` hands it out.

Each method imports what it uses, so that looking at a job loads nothing that launches one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.jobs.factory import Factory, provider_of
from provisioner.output import Event, Report
from provisioner.s3url import show_url

if TYPE_CHECKING:
    from provisioner.jobs.collect import Collected
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.status import TaskReport, TaskStatus
    from provisioner.jobs.stores import OpenStore
    from provisioner.providers.base import Provider

FRESH_SECONDS = 5.0  # for which the record that opening a job has read serves the first thing that is done with it


class Job:
    """A launched job. Get one from `launch` or `job`; any number of them, on any machine, may stand for the same job.

    Each method reads the bucket as it is then. What they have in common: NotFound when the job was removed, Refused,
    NoCredentials or Unreachable when the store or the provider doesn't answer as it should.
    """

    def __init__(self, opened: OpenStore, record: JobRecord, report: Report, provider: Provider | None = None) -> None:
        self._opened = opened
        self._report = report
        self._provider = provider
        self._read, self._read_at = record, time.monotonic()
        self._launched_here = provider is not None
        self._followed = False
        self.id = record.job

    def __repr__(self) -> str:
        return f"<Job {self.url}>"

    @property
    def url(self) -> str:
        """Where the job lies, as s3://BUCKET/PREFIX/ID."""
        store = self._opened.store
        return show_url(store.bucket.name, "/".join(filter(None, (store.prefix, self.id))))

    def status(self) -> list[TaskReport]:
        """Return the state of every task, from what its VM posted and what the provider says. Changes nothing."""
        from provisioner.jobs import status

        record = self._record()
        found = self._factory.observer(self._provider_of(record)).settle(record, timedelta(0))
        return status.describe(self._opened.store, record, found)

    def wait(self, *, check: bool = True) -> list[TaskStatus]:
        """Wait until every task is over, launching the retries that the job has left and renewing grants meanwhile.

        Reports each change. May be interrupted and begun again at any time. With `check`, raise JobFailed when a task
        has not succeeded.
        """
        record = self._record()
        watcher = self._factory.watcher(self._provider_of(record))
        found = watcher.follow(record, launched=self._launched_here)
        self._launched_here, self._followed = False, True
        if check:
            self.require_success(found)
        return found

    def require_success(self, found: Sequence[TaskStatus]) -> None:
        """Raise JobFailed, naming them, when tasks have not succeeded. `found` is from `wait` or `status`."""
        from provisioner.jobs import status

        status.require_success(self.id, found)

    def logs(self, task: str | None = None) -> Iterator[bytes]:
        """What the tasks printed, or one of them, as far as it was uploaded; the VM's console where nothing was.

        Each piece is bytes as the task wrote them; a line may span two. Raise BadInput for a task that isn't there.
        """
        from provisioner.jobs import logs

        record = self._record()
        return logs.logs(self._opened.store, self._provider_of(record), record, task)

    def collect(self, folder: str | os.PathLike[str], *, check: bool = True) -> Collected:
        """Bring results to `folder`, each file verified; safe to run again, which fetches what is not there yet.

        Files of an array's task go to ``folder/TASK``. Raise Integrity for a damaged file, Incomplete for one that
        could not be fetched and, with `check`, for tasks that have not succeeded.
        """
        from provisioner.jobs import collect

        record, where = self._record(), Path(folder)
        done = collect.collect(self._opened.store, record, where, self._report)
        collect.report_summary(done, where, self._report)
        collect.require_files(record, done)
        if not self._followed:  # `wait` revokes as tasks end
            self._revoke_finished(record)
        if check:
            collect.require_tasks(record, done)
        return done

    def retry(self, task: str | None = None) -> list[str]:
        """Launch the next attempt of every task that is over and didn't succeed, or of one. Return these tasks.

        Raise BadInput when there is nothing to retry, Refused when the job is revoked, NoCapacity for want of room.
        """
        from provisioner.jobs import renew, revoke, watch

        record = self._record()
        revoke.check(self._opened.store, record)
        provider = self._provider_of(record)
        launcher = self._factory.launcher(provider)
        known, record = record, launcher.recover(record)
        again = watch.to_retry(self._factory.observer(provider), record, task, required=record is known)
        if again:
            record = launcher.retry(record, again)
            self._followed = False  # nobody has waited for these yet
        renew.remind(record, self._report)
        return again

    def extend(self, life: int | None = None, *, task: str | None = None) -> None:
        """Renew the grants of the running VMs now, for `life` seconds; None: for as long as the job's `renew` says.

        Raise BadInput for a job without `renew`, more than 7 days, or when nothing runs; Expiry past the deadline.
        """
        from provisioner.jobs import status

        record = self._record()
        renewer = self._factory.renewer(self._provider_of(record))
        found = status.read_tasks(self._opened.store, record, task)
        for event in renewer.extend(record, found, None if life is None else timedelta(seconds=life)):
            self._report(event)

    def revoke(self, *, undo: bool = False) -> None:
        """Make the store refuse what the job's VMs were granted, before it expires; with `undo`, no longer.

        Raise Unsupported for a store that has no bucket policies or doesn't apply them to uploads.
        """
        from provisioner.jobs import revoke

        change = revoke.undo if undo else revoke.revoke
        self._report(change(self._opened.store, self._record(), self._factory.clock()))

    def terminate(self) -> int:
        """End every VM; what they uploaded stays. Return how many VMs were known."""
        from provisioner.jobs import renew, terminate

        record = self._record()
        count = terminate.terminate(self._provider_of(record), record)
        renew.drop(self._opened.store, record)
        self._revoke_finished(record, ended=True)
        self._report(Event("terminated", f"{self.id}: its {count} VMs are ended", {"job": self.id, "vms": count}))
        return count

    def remove(self) -> int:
        """End every VM and delete everything of the job from the bucket. Return how many objects there were."""
        from provisioner.jobs import removal, stores, terminate

        record = self._record()
        terminate.terminate(self._provider_of(record), record)
        revoker = self._factory.revoker()
        if revoker is not None:
            revoker.whole(record)
        count = removal.remove(self._opened.store, record)
        stores.job_index().forget(self.id)
        self._report(Event("removed", f"{self.id}: {count} objects deleted", {"job": self.id, "objects": count}))
        return count

    def _revoke_finished(self, record: JobRecord, *, ended: bool = False) -> None:
        revoker = self._factory.revoker()
        if revoker is not None:
            revoker.catch_up(record, ended=ended)

    @property
    def _factory(self) -> Factory:
        return Factory(self._opened, self._report)

    def _record(self) -> JobRecord:
        """The job's record as it is now, read once for what follows at once: opening a job and looking at it."""
        from provisioner.jobs.record import read_record

        if time.monotonic() - self._read_at > FRESH_SECONDS:
            self._read = read_record(self._opened.store, self.id)
        self._read_at = -math.inf  # whatever is done may change it
        return self._read

    def _provider_of(self, record: JobRecord) -> Provider:
        if self._provider is None:
            self._provider = provider_of(self._opened, record)
        return self._provider
