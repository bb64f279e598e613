"""Puts the parts together for one command: which store, which provider, the clock, and where events go.

Each function imports the parts that it puts together, so a command loads what it uses: `store status` no boto3, and
`status` nothing that launches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner.errors import BadInput, Unreachable
from provisioner.output import Event, Report
from provisioner.paths import state_dir

if TYPE_CHECKING:
    from provisioner.embedded.server import EmbeddedStore, Running
    from provisioner.job.spec import JobSpec
    from provisioner.jobs.index import JobIndex, StoreLocation
    from provisioner.jobs.launch import Launcher
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.renew import Renewer
    from provisioner.jobs.revoke import Revoker
    from provisioner.jobs.role_session import RoleSessions
    from provisioner.jobs.watch import TaskStatus, Watcher
    from provisioner.providers.base import Provider
    from provisioner.s3.bucket import Store

NEAR = frozenset({"local", "machine", "qemu"})  # providers whose VMs reach this machine's loopback


def clock() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class OpenStore:
    """A store that is open, and what is needed to open it again."""

    store: Store
    place: StoreLocation


def embedded_place(bucket: str | None, prefix: str) -> StoreLocation:
    """The embedded store; where it listens is found when it is opened."""
    from provisioner.job.spec import StoreSpec
    from provisioner.jobs.index import StoreLocation

    return StoreLocation(StoreSpec(bucket or "freepost", prefix), embedded=True)


def embedded_store() -> EmbeddedStore:
    """The user's own embedded store."""
    from provisioner.embedded.server import EmbeddedStore

    return EmbeddedStore(state_dir())


def running_store() -> Running:
    """The embedded store if it runs. Raise Unreachable if it doesn't."""
    running = embedded_store().status()
    if running is None:
        message = "the embedded store is not running"
        raise Unreachable(message, hint="start it: provision store start")
    return running


def named_place(url: str | None, endpoint_url: str | None) -> StoreLocation | None:
    """The store that ``--store`` and ``--endpoint-url`` name, or None. Raise BadInput for what is no s3:// URL."""
    from provisioner.job.spec import StoreSpec
    from provisioner.jobs.index import StoreLocation
    from provisioner.s3url import split_url

    if not url:
        if endpoint_url:
            message = "--endpoint-url needs --store s3://BUCKET/PREFIX"
            raise BadInput(message)
        return None
    if not url.startswith("s3://") or not split_url(url)[0]:
        message = f"--store {url!r} is not s3://BUCKET or s3://BUCKET/PREFIX"
        raise BadInput(message)
    bucket, prefix = split_url(url)
    return StoreLocation(StoreSpec(bucket, prefix.strip("/"), endpoint_url), embedded=False)


def open_place(place: StoreLocation) -> OpenStore:
    """Open a store; the embedded one is started if it doesn't run."""
    from provisioner.jobs.index import StoreLocation
    from provisioner.s3.bucket import open_store
    from provisioner.s3.retrying import RetryingStore

    if not place.embedded:
        return OpenStore(RetryingStore(open_store(place.store)), place)
    running = embedded_store().start([place.store.bucket])
    here = replace(
        place.store, endpoint_url=running.endpoint_url, region=running.region, addressing="path", profile=None
    )
    store = open_store(here, access_key=running.access_key, secret_key=running.secret_key)
    return OpenStore(RetryingStore(store), StoreLocation(here, embedded=True))


def index() -> JobIndex:
    """The jobs that this machine launched."""
    from provisioner.jobs.index import JobIndex

    return JobIndex(state_dir() / "jobs")


def load_spec(path: Path, overrides: Sequence[str], provider: str | None) -> JobSpec:
    """Read job.yaml, knowing every provider's own keys. `provider` stands in for vm.provider."""
    from provisioner.job.load import load
    from provisioner.providers import registry

    chosen = [f"vm.provider={provider}"] if provider else []
    return load(path, [*overrides, *chosen], registry.OptionSchemas())


def choose(spec: JobSpec, *, local: bool, provider: str | None) -> tuple[StoreLocation, str]:
    """Decide where results go and where VMs run, from the flags and the spec."""
    from provisioner.job.spec import StoreSpec
    from provisioner.jobs.index import StoreLocation
    from provisioner.providers import registry

    name = "local" if local else provider or spec.vm.provider
    if name is None:
        message = "the job names no provider"
        raise BadInput(message, hint=f"set vm.provider, or use --provider ({', '.join(registry.names())}) or --local")
    registry.provider_class(name)
    if spec.store is not None and not local:
        return StoreLocation(spec.store, embedded=False), name
    if name not in NEAR:
        message = f"the job names no store, and VMs of {name} can't reach the embedded one"
        raise BadInput(message, hint="set store: s3://BUCKET/PREFIX")
    wanted = spec.store or StoreSpec("freepost")
    return embedded_place(wanted.bucket, wanted.prefix), name


def make_provider(name: str, opened: OpenStore, options: Mapping[str, Any]) -> Provider:
    """Make a provider that retries what may work later. `options` are the job's own, those under ``vm``."""
    from provisioner.providers import registry
    from provisioner.providers.retrying import RetryingProvider

    context = registry.Context(state_dir(), opened.place.store.endpoint_url or "", options)
    return RetryingProvider(registry.create(name, context))


def launcher(opened: OpenStore, provider: Provider, report: Report) -> Launcher:
    """Everything a launch works with."""
    from provisioner.jobs.launch import Launcher
    from provisioner.jobs.role_session import open_role_sessions

    return Launcher(opened.store, provider, clock, report, open_role_sessions(opened.store, opened.place.store, clock))


def find_job(job: str, place: StoreLocation | None) -> tuple[OpenStore, JobRecord]:
    """Open the store of a job and read its record."""
    from provisioner.jobs import index as jobs

    found, name = jobs.locate(job, place=place, index=index())
    opened = open_place(found)
    return opened, jobs.read(opened.store, name)


def observer(opened: OpenStore, provider: Provider, report: Report) -> Watcher:
    """Everything that looking at a job works with; it changes nothing."""
    from provisioner.jobs.watch import Watcher

    return Watcher(opened.store, provider, clock, time.sleep, report)


def watcher(opened: OpenStore, provider: Provider, report: Report) -> Watcher:
    """Everything that following a job works with: it revokes what is over, renews what runs, retries what failed."""
    from provisioner.jobs.renew import Renewer

    sign = signers(opened)

    def again(record: JobRecord, tasks: Sequence[str]) -> JobRecord:
        return replace(launcher(opened, provider, report), signer=sign()).retry(record, tasks)

    renewing = Renewer(opened.store, provider, clock, report, sign)
    revoking = revoker(opened, report, sign)

    def tick(record: JobRecord, found: Sequence[TaskStatus]) -> float | None:
        if revoking is not None:
            revoking.tick(record, found)
        return renewing.tick(record, found)

    finished = None if revoking is None else revoking.finished
    return replace(observer(opened, provider, report), retry=again, finished=finished, renew=tick)


def revoker(opened: OpenStore, report: Report, sign: Callable[[], RoleSessions] | None = None) -> Revoker | None:
    """Revokes grants of what is over; None for the embedded store, which applies a Deny to no form (measured)."""
    if opened.place.embedded:
        return None
    from provisioner.jobs.revoke import Revoker

    who = sign or signers(opened)
    return Revoker(opened.store, report, clock, lambda: who().own)


def revoke_over(opened: OpenStore, record: JobRecord, report: Report, *, ended: bool = False) -> None:
    """Revoke the grants of tasks that are over, or of all when their VMs are `ended`, where the job says so."""
    revoking = revoker(opened, report)
    if revoking is None or record.spec.revoke != "on-finish" or record.expires <= clock():
        return
    from provisioner.jobs import watch

    found = watch.status(opened.store, record)
    for item in found:
        for attempt in range(1, item.attempt + 1) if ended or item.is_final else ():
            revoking.finished(record, item.task, attempt)
    revoking.settle(record, last=ended or all(item.is_final for item in found))


def signers(opened: OpenStore) -> Callable[[], RoleSessions]:
    """Return what tells who signs now. Credentials that are about to end are looked up anew."""
    from provisioner.jobs.role_session import RefreshingCredentials, open_role_sessions

    found = RefreshingCredentials(lambda: open_place(opened.place).store.credentials, clock, opened.store.credentials)
    first = open_role_sessions(opened.store, opened.place.store, clock)
    return lambda: replace(first, own=found())


def renewer(opened: OpenStore, provider: Provider, report: Report) -> Renewer:
    """Everything that renewing grants works with."""
    from provisioner.jobs.renew import Renewer

    return Renewer(opened.store, provider, clock, report, signers(opened))


def notice(provider: Provider, report: Report) -> None:
    """Say what people should know before they rely on a provider."""
    text = provider.notice
    if text:
        report(Event("notice", f"note: {text}", {"text": text}))
