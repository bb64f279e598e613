"""Makes the objects that work on a job: its spec, its provider, and what launches, follows, renews and revokes it.

Each function imports what it makes, so that a command loads what it uses: `status` loads nothing that launches.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.clock import utc_now
from provisioner.jobs.stores import OpenStore, choose, open_location
from provisioner.output import Event, Report
from provisioner.paths import state_dir

if TYPE_CHECKING:
    from provisioner.job.spec import JobSpec
    from provisioner.jobs.launch import Launcher
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.renew import Renewer
    from provisioner.jobs.revoke import Revoker
    from provisioner.jobs.role_session import RoleSessions
    from provisioner.jobs.status import TaskStatus
    from provisioner.jobs.watch import Watcher
    from provisioner.providers.base import Provider


def read_spec(
    job: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    provider: str | None = None,
    *,
    where: str = "the job",
) -> JobSpec:
    """Read a job.yaml, or a mapping like one, knowing every provider's own keys. `provider` replaces vm.provider.

    `overrides` are like those of ``--set``. Files that a mapping names are relative to the current folder; `where`
    names it in faults. Raise BadInput, with every fault in its `faults`.
    """
    from provisioner.job import load
    from provisioner.providers import registry

    changes = [*overrides, *([f"vm.provider={provider}"] if provider else [])]
    if not isinstance(job, Mapping):
        return load.load(Path(job), changes, registry.OptionSchemas())
    from provisioner.job.overrides import apply
    from provisioner.job.problems import Faults

    faults = Faults(where, Path())
    document = apply(copy.deepcopy(dict(job)), changes, faults)
    if faults.found:
        faults.stop()
    return load.parse(document, base=Path(), where=where, providers=registry.OptionSchemas())


def make_provider(name: str, opened: OpenStore, options: Mapping[str, Any]) -> Provider:
    """Make a provider that retries what may work later. `options` are the job's own, those under ``vm``."""
    from provisioner.providers import registry
    from provisioner.providers.retrying import RetryingProvider

    context = registry.Context(state_dir(), opened.location.store.endpoint_url or "", options)
    return RetryingProvider(registry.create(name, context))


def provider_of(opened: OpenStore, record: JobRecord) -> Provider:
    """Make the provider that a recorded job was launched with."""
    return make_provider(record.provider, opened, record.spec.vm.options)


def report_notice(provider: Provider, report: Report) -> None:
    """Report what people should know before they rely on a provider."""
    text = provider.notice
    if text:
        report(Event("notice", f"note: {text}", {"text": text}))


def remember_job(opened: OpenStore, job: str, report: Report) -> None:
    """Note on this machine where a new job lies, and report its id."""
    from provisioner.jobs import events
    from provisioner.jobs.stores import job_index

    job_index().remember(job, opened.location.store, embedded=opened.location.embedded)
    report(Event(events.JOB, f"job {job}", {"job": job, "store": repr(opened.store)}))


@dataclass(frozen=True)
class Factory:
    """Makes what works on the jobs of one open store; each reports to `report` what it does."""

    opened: OpenStore
    report: Report
    clock: Callable[[], datetime] = utc_now

    def launcher(self, provider: Provider) -> Launcher:
        """Return what launches jobs and their retries."""
        from provisioner.jobs.launch import Launcher
        from provisioner.jobs.role_session import open_role_sessions

        store = self.opened.store
        sessions = open_role_sessions(store, self.opened.location.store, self.clock)
        return Launcher(store, provider, self.clock, self.report, sessions)

    def observer(self, provider: Provider) -> Watcher:
        """Return what tells where a job's tasks stand, and changes nothing."""
        from provisioner.jobs.watch import Watcher

        return Watcher(self.opened.store, provider, self.clock, time.sleep, self.report)

    def watcher(self, provider: Provider) -> Watcher:
        """Return what follows a job: it revokes what is over, renews what runs and retries failures."""
        fresh = self.fresh_sessions()
        renewer, revoker = self.renewer(provider, fresh), self.revoker(fresh)

        def again(record: JobRecord, tasks: Sequence[str]) -> JobRecord:
            return replace(self.launcher(provider), sessions=fresh()).retry(record, tasks)

        def tick(record: JobRecord, found: Sequence[TaskStatus]) -> float | None:
            if revoker is not None:
                revoker.tick(record, found)
            return renewer.tick(record, found)

        finished = None if revoker is None else revoker.finished
        return replace(self.observer(provider), retry=again, finished=finished, renew=tick)

    def renewer(self, provider: Provider, sessions: Callable[[], RoleSessions] | None = None) -> Renewer:
        """Return what renews the grants of running tasks."""
        from provisioner.jobs.renew import Renewer

        return Renewer(self.opened.store, provider, self.clock, self.report, sessions or self.fresh_sessions())

    def revoker(self, sessions: Callable[[], RoleSessions] | None = None) -> Revoker | None:
        """Return what revokes grants; None for the embedded store, which applies a Deny to no form (measured)."""
        if self.opened.location.embedded:
            return None
        from provisioner.jobs.revoke import Revoker

        fresh = sessions or self.fresh_sessions()
        return Revoker(self.opened.store, self.report, self.clock, lambda: fresh().own)

    def fresh_sessions(self) -> Callable[[], RoleSessions]:
        """Return a function that gives what signs now. Credentials that are about to end are looked up anew."""
        from provisioner.jobs.role_session import RefreshingCredentials, open_role_sessions

        store, location = self.opened.store, self.opened.location
        found = RefreshingCredentials(lambda: open_location(location).store.credentials, self.clock, store.credentials)
        first = open_role_sessions(store, location.store, self.clock)
        return lambda: replace(first, own=found())


@dataclass(frozen=True)
class Prepared:
    """What is needed to launch a job, or to say what a launch would do."""

    opened: OpenStore
    provider: Provider
    launcher: Launcher


def prepare(spec: JobSpec, report: Report, *, local: bool, provider: str | None) -> Prepared:
    """Open a job's store and make its provider and its launcher, as `choose` decides."""
    location, name = choose(spec, local=local, provider=provider)
    opened = open_location(location)
    made = make_provider(name, opened, spec.vm.options)
    return Prepared(opened, made, Factory(opened, report).launcher(made))
