"""The stores that jobs lie in: choosing one, opening it, and finding a job there.

Each function imports what it uses, so that a command loads no more: `store status` loads no boto3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from provisioner.errors import BadInput, Unreachable
from provisioner.paths import state_dir
from provisioner.retry import DEFAULT_RETRY

if TYPE_CHECKING:
    from provisioner.embedded.server import EmbeddedStore, Running
    from provisioner.job.spec import JobSpec
    from provisioner.jobs.index import JobIndex, StoreLocation
    from provisioner.jobs.record import JobRecord
    from provisioner.links.signer import LinkSigner
    from provisioner.s3.bucket import Store


@dataclass(frozen=True)
class OpenStore:
    """A store that is open, and what is needed to open it again."""

    store: Store
    location: StoreLocation


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


def embedded_location(bucket: str | None = None, prefix: str = "") -> StoreLocation:
    """The embedded store; where it listens is found when it is opened."""
    from provisioner.embedded.server import DEFAULT_BUCKET
    from provisioner.jobs.index import StoreLocation
    from provisioner.s3url import StoreSpec

    return StoreLocation(StoreSpec(bucket or DEFAULT_BUCKET, prefix), embedded=True)


def location_of(url: str, endpoint_url: str | None = None) -> StoreLocation:
    """The store at an s3:// URL. Raise BadInput for what is none, naming the argument `store` or `endpoint_url`.

    Without `endpoint_url` it is at AWS.
    """
    from provisioner.jobs.index import StoreLocation
    from provisioner.s3url import StoreSpec, check_endpoint, parse_url

    if endpoint_url is not None:
        check_endpoint(endpoint_url)
    bucket, prefix = parse_url(url, argument="store")
    return StoreLocation(StoreSpec(bucket, prefix.strip("/"), endpoint_url), embedded=False)


def choose(spec: JobSpec, *, local: bool, provider: str | None) -> tuple[StoreLocation, str]:
    """Decide where a job's results go and which provider its VMs are of; `local` and `provider` outrank the spec.

    Raise BadInput for a job that names no provider, and for one whose VMs could not reach its store.
    """
    from provisioner.jobs.index import StoreLocation
    from provisioner.providers import registry

    name = "local" if local else provider or spec.vm.provider
    if name is None:
        message = "the job names no provider"
        raise BadInput(message, hint=f"set vm.provider, or use --provider ({', '.join(registry.names())}) or --local")
    chosen = registry.provider_class(name)
    if spec.store is not None and not local:
        return StoreLocation(spec.store, embedded=False), name
    if not chosen.reaches_loopback:
        message = f"the job names no store, and VMs of {name} can't reach the embedded one"
        raise BadInput(message, hint="set store: s3://BUCKET/PREFIX")
    where = embedded_location(spec.store.bucket, spec.store.prefix) if spec.store else embedded_location()
    return where, name


def open_location(location: StoreLocation) -> OpenStore:
    """Open a store, with retries; the embedded one is started if it doesn't run."""
    from provisioner.jobs.index import StoreLocation
    from provisioner.s3.bucket import open_store
    from provisioner.s3.retrying import RetryingStore

    if not location.embedded:
        return OpenStore(RetryingStore(DEFAULT_RETRY(open_store, location.store)), location)
    running = embedded_store().start([location.store.bucket])
    here = replace(
        location.store, endpoint_url=running.endpoint_url, region=running.region, addressing="path", profile=None
    )
    store = open_store(here, access_key=running.access_key, secret_key=running.secret_key)
    return OpenStore(RetryingStore(store), StoreLocation(here, embedded=True))


def job_index() -> JobIndex:
    """The jobs that this machine launched."""
    from provisioner.jobs.index import JobIndex

    return JobIndex(state_dir() / "jobs")


def find_job(job: str, location: StoreLocation | None) -> tuple[OpenStore, JobRecord]:
    """Open the store of a job and read its record. `location` is the store that the operator named, if any.

    Raise NotFound when this machine knows no such job, or its store has none.
    """
    from provisioner.jobs import index
    from provisioner.jobs.record import read_record

    found, name = index.locate(job, location=location, index=job_index())
    opened = open_location(found)
    return opened, read_record(opened.store, name)


def link_opener(endpoint_url: str | None, seconds: int, *, local: bool) -> Callable[[str], tuple[Store, LinkSigner]]:
    """Return a function that opens a bucket, each once, and what signs links in it for `seconds` from now.

    The bucket is one of the embedded store if `local`, else at `endpoint_url`, which is AWS if None. Raise BadInput for
    both.
    """
    if local and endpoint_url:
        raise BadInput(
            f"{endpoint_url!r} is not the embedded store's",
            argument="endpoint_url",
            hint="leave it out (FREEPOST_ENDPOINT_URL counts), or leave out `local`",
        )
    from provisioner.clock import utc_now
    from provisioner.jobs.index import StoreLocation
    from provisioner.links.signer import make_signer
    from provisioner.s3url import StoreSpec, check_endpoint

    if endpoint_url is not None:
        check_endpoint(endpoint_url)

    @functools.cache
    def open_bucket(bucket: str) -> tuple[Store, LinkSigner]:
        elsewhere = StoreLocation(StoreSpec(bucket, "", endpoint_url), embedded=False)
        store = open_location(embedded_location(bucket) if local else elsewhere).store
        return store, make_signer(store.bucket, store.credentials, now=utc_now(), seconds=seconds)

    return open_bucket
