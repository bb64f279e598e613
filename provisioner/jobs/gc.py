"""Finds what launches left behind and nobody needs: VMs, launch templates, and marks of launches in the bucket.

Something is left over when its expiry has passed, or when its job is over. What belongs to a job that the store knows
nothing of may be another store's: of that, only the expiry counts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from provisioner.clock import iso
from provisioner.errors import BadInput, FreepostError, NotFound
from provisioner.jobs import status
from provisioner.jobs.record import JobRecord, job_ids, read_record
from provisioner.plan.layout import JobKeys, agent_root, marks_root
from provisioner.providers.base import Provider, ProviderResource
from provisioner.s3.bucket import Store

STORE = "store"  # stands among the names of clouds
AGENT = "agent"  # the kind of an archive of the agent
MARK_LIFE = timedelta(hours=1)  # a launch writes its record seconds after its mark: an older mark is nobody's
UNRECORDED_FOR = timedelta(minutes=10)  # at most, after the launch has written an archive of the agent


@dataclass(frozen=True)
class Removable:
    """One thing that can go. `cloud` is the name of the provider that has it, ``store`` for an object of the bucket."""

    cloud: str
    kind: str
    id: str
    job: str
    why: str
    resource: ProviderResource | None = None

    def data(self) -> dict[str, str]:
        """What can go as JSON holds it."""
        return {"place": self.cloud, "kind": self.kind, "id": self.id, "job": self.job, "why": self.why}


@dataclass(frozen=True)
class Finder:
    """Looks through one store and any number of clouds, each under a name that people know it by."""

    store: Store
    clouds: Mapping[str, Provider]
    now: datetime
    failed: dict[str, FreepostError] = field(default_factory=dict)  # by cloud, what kept it from being looked through

    def find(self, records: Mapping[str, JobRecord], *, every: bool = True) -> list[Removable]:
        """Everything that can go. `records` are those of the store's jobs: `every` one, or those that can be read."""
        over = {name: why for name, record in records.items() if (why := self.why_over(record))}
        found = []
        for name, cloud in self.clouds.items():
            with self._noting_failure(name):
                found += [
                    Removable(name, item.kind, item.id, item.job, why, item)
                    for item in cloud.list_resources()
                    if (why := self._why(item, over.get(item.job, "")))
                ]
        agents = self._agents(records) if every else []
        return [*found, *self._marks(records, over), *self._orders(over), *self._mail(over), *agents]

    def why_over(self, record: JobRecord) -> str:
        """Why a job is over; empty while it isn't."""
        if record.expires <= self.now:
            return self._expired(record.expires)
        if not record.launched:
            return ""
        finished = all(item.is_final for item in status.read(self.store, record))
        return "every task of its job is over" if finished else ""

    @contextlib.contextmanager
    def _noting_failure(self, name: str) -> Iterator[None]:
        """Note what is wrong with a cloud and go on: the others cost money, too."""
        try:
            yield
        except FreepostError as error:
            self.failed[name] = error

    def _why(self, item: ProviderResource, over: str) -> str:
        """Say why something can go. While a launch goes on, a VM's own tag knows its expiry better than the record."""
        own = self._expired(item.expires)
        return own if item.expires is not None and over.startswith("expired") else over or own

    def _expired(self, expires: datetime | None) -> str:
        return f"expired at {iso(expires)}" if expires is not None and expires <= self.now else ""

    def _marks(self, records: Mapping[str, JobRecord], over: Mapping[str, str]) -> list[Removable]:
        """The marks of launches that were cut off, when their job is over or was never begun."""
        found = []
        for entry in self.store.list(marks_root(self.store.prefix)):
            try:
                job = str(json.loads(self.store.get(entry.key))["job"])
            except NotFound:
                continue
            except (ValueError, KeyError, TypeError):  # no mark of ours
                job = "?"
            if job not in records:
                why = "its job was never recorded" if self.now - entry.modified > MARK_LIFE else ""
            else:
                why = over.get(job, "")
            if why:
                found.append(Removable(STORE, "mark", entry.key, job, why))
        return found

    def _orders(self, over: Mapping[str, str]) -> list[Removable]:
        """The orders of launches that were cut off. They hold user-data: what is over needs none."""
        return [
            Removable(STORE, "order", entry.key, job, why)
            for job, why in over.items()
            for entry in self.store.list(JobKeys(self.store.prefix, job).launch_root)
        ]

    def _mail(self, over: Mapping[str, str]) -> list[Removable]:
        """The renewed grants of jobs that are over."""
        return [
            Removable(STORE, "grant", entry.key, job, why)
            for job, why in over.items()
            for entry in self.store.list(JobKeys(self.store.prefix, job).mail_root)
        ]

    def _agents(self, records: Mapping[str, JobRecord]) -> list[Removable]:
        """The archives of the agent that no job names. A young one may be of a launch that isn't recorded yet."""
        named = {key for record in records.values() for key in record.agents}
        return [
            Removable(STORE, AGENT, entry.key, "-", "no job names it")
            for entry in self.store.list(agent_root(self.store.prefix))
            if entry.key not in named and self.now - entry.modified > UNRECORDED_FOR
        ]

    def remove(self, found: Sequence[Removable]) -> None:
        """Remove them. Safe to repeat."""
        for name, cloud in self.clouds.items():
            mine = [each.resource for each in found if each.cloud == name and each.resource]
            if mine:
                with self._noting_failure(name):
                    cloud.remove_resources(mine)
        self.store.delete([each.id for each in found if each.cloud == STORE and not self._renewed(each)])

    def _renewed(self, each: Removable) -> bool:
        """Whether a launch that began meanwhile has written an archive of the agent anew."""
        if each.kind != AGENT:
            return False
        entries = self.store.list(each.id)
        return any(entry.key == each.id and self.now - entry.modified <= UNRECORDED_FOR for entry in entries)


def read_records(store: Store) -> tuple[dict[str, JobRecord], list[str]]:
    """The records of a store's jobs, and a sentence for each that can't be read."""
    records, faults = {}, []
    for job in job_ids(store):
        try:
            records[job] = read_record(store, job)
        except NotFound:
            continue  # a folder that isn't a job's
        except BadInput as error:
            faults.append(error.message)
    return records, faults


def table(found: Sequence[Removable]) -> str:
    """What can go, as lines of text."""
    if not found:
        return "nothing is left behind"
    return "\n".join(f"{each.kind:9} {each.id}  {each.job}: {each.why} ({each.cloud})" for each in found)
