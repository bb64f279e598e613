"""Freepost as a library: what the commands do, as functions and a `Job`. `import freepost` gives the same names.

The embedded store and the `local` provider need no account, so this runs anywhere:

>>> import freepost
>>> hello = {"name": "hello", "run": {"command": "mkdir out && echo hi >out/it"}, "outputs": ["out/**"]}
>>> job = freepost.launch(hello, local=True)
>>> [task.event for task in job.wait()]
['succeeded']
>>> job.collect("results").files
['out/it']
>>> freepost.job(job.id).status()[0].details["exit_code"]
0
>>> job.remove() > 0
True

Durations are whole seconds, sizes are bytes, and times are UTC datetimes. What happens goes to `report`, which gets
each `Event` (`name`, `text`, `data`); nothing is printed. Every failure that a person can act on is a `FreepostError`
with a `message`, a `hint` and an `exit_code`.

Each function imports what it uses: importing this module costs next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from agent import __version__
from provisioner.errors import (
    BadInput,
    Expiry,
    FreepostError,
    Incomplete,
    Integrity,
    JobFailed,
    MissingDependency,
    NoCapacity,
    NoCredentials,
    NotFound,
    Refused,
    Stopped,
    Unreachable,
    Unsupported,
)
from provisioner.jobs.job import Job
from provisioner.output import Event, Report, ignore
from provisioner.s3url import MAX_OBJECT_BYTES

if TYPE_CHECKING:
    from provisioner.jobs.collect import Collected
    from provisioner.jobs.index import StoreLocation
    from provisioner.jobs.rendering import Rendering
    from provisioner.jobs.status import TaskReport, TaskStatus
    from provisioner.links.link import Link
    from provisioner.links.signer import LinkSigner
    from provisioner.plan.plan import Plan

__all__ = [
    "BadInput",
    "Collected",
    "Event",
    "Expiry",
    "FreepostError",
    "Incomplete",
    "Integrity",
    "Job",
    "JobFailed",
    "JobSource",
    "Link",
    "MissingDependency",
    "NoCapacity",
    "NoCredentials",
    "NotFound",
    "Plan",
    "Refused",
    "Rendering",
    "Report",
    "Stopped",
    "StoreLocation",
    "TaskReport",
    "TaskStatus",
    "Unreachable",
    "Unsupported",
    "__version__",
    "download_url",
    "job",
    "jobs",
    "launch",
    "plan",
    "render",
    "sign",
    "upload_url",
]

JobSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"  # a job.yaml, or what stands in one
HOUR = 3600  # seconds
# What these functions and a Job return or take, by the module that has it: for annotations, and loaded only for them.
_TYPES = {
    "Collected": "provisioner.jobs.collect",
    "Link": "provisioner.links.link",
    "Plan": "provisioner.plan.plan",
    "Rendering": "provisioner.jobs.rendering",
    "StoreLocation": "provisioner.jobs.index",
    "TaskReport": "provisioner.jobs.status",
    "TaskStatus": "provisioner.jobs.status",
}


def launch(
    source: JobSource,
    *,
    local: bool = False,
    provider: str | None = None,
    overrides: Sequence[str] = (),
    report: Report | None = None,
) -> Job:
    """Sign, render and start a job. Called again after a failure, it goes on where the last call stopped.

    `source` is the path of a job.yaml, or a mapping with the same keys, whose files are relative to the current
    folder. `local`: use the embedded store and no VM, so that the job runs here, not isolated. `provider` replaces the
    job's ``vm.provider``; `overrides` are ``KEY=VALUE``, such as ``run.timeout=2h``.

    Raise BadInput for a job that is wrong, with every fault in its `faults`; Expiry for credentials that end too
    early; NoCapacity or Refused when no VM could be started, Incomplete when some were; Stopped when interrupted.
    """
    from provisioner.jobs import factory, renew

    report = report or ignore
    spec = factory.read_spec(source, overrides, provider)
    ready = factory.prepare(spec, report, local=local, provider=provider)
    factory.report_notice(ready.provider, report)
    record = ready.launcher.launch(spec)
    factory.remember_job(ready.opened, record.job, report)
    renew.remind(record, report)
    return Job(ready.opened, record, report, ready.provider)


def plan(
    source: JobSource,
    *,
    local: bool = False,
    provider: str | None = None,
    overrides: Sequence[str] = (),
    report: Report | None = None,
) -> Plan:
    """Say everything that `launch` would do, and change nothing. `Plan.describe` gives it as JSON holds it.

    Raises what `launch` raises before it orders anything.
    """
    from provisioner.jobs import factory

    spec = factory.read_spec(source, overrides, provider)
    ready = factory.prepare(spec, report or ignore, local=local, provider=provider)
    planned = ready.launcher.plan(spec)
    ready.launcher.rehearse(planned)
    return planned


def render(  # noqa: PLR0913 - each is an option of `provision render`
    source: JobSource,
    *,
    task: str | None = None,
    local: bool = False,
    provider: str | None = None,
    overrides: Sequence[str] = (),
    stage: bool = False,
    raw: bool = False,
    as_launched: bool = False,
    report: Report | None = None,
) -> Rendering:
    """Render the user-data of a task, the first if none is named, to be given to a VM by other means: its `data`.

    To `stage` it, upload its inputs and the job's record, so that the job can be watched and collected. `raw`: for
    platforms that refuse gzip. `as_launched`: as a launch's VM gets it, only to be looked at. The rest is as for
    `launch`. What is returned holds the task's signed policies. Raise BadInput for a job that is wrong or has no such
    task, Expiry for credentials that end too early.
    """
    from provisioner.jobs import factory, rendering

    spec = factory.read_spec(source, overrides, provider)
    renderer = rendering.Renderer(report or ignore, local, provider, stage, raw, as_launched)
    return renderer.render(spec, task)


def job(
    name: str,
    *,
    store: str | StoreLocation | None = None,
    endpoint_url: str | None = None,
    report: Report | None = None,
) -> Job:
    """Open a job: by its id, if this machine launched it or `store` (s3://BUCKET/PREFIX) names where; or by its URL.

    `endpoint_url` is that of `store`, if it isn't AWS. Raise NotFound for no such job, BadInput for what can't be one.
    """
    from provisioner.jobs import stores

    opened, record = stores.find_job(name, _location(store, endpoint_url))
    return Job(opened, record, report or ignore)


def jobs(*, store: str | StoreLocation | None = None, endpoint_url: str | None = None) -> list[str]:
    """List the ids of a store's jobs, by name; of the embedded store if none is named. `store` is as for `job`.

    Raise NotFound for a bucket that isn't there, Refused, NoCredentials or Unreachable for one that can't be listed.
    """
    from provisioner.jobs import stores
    from provisioner.jobs.record import job_ids

    location = _location(store, endpoint_url) or stores.embedded_location()
    return job_ids(stores.open_location(location).store)


def sign(
    prefix: str,
    *,
    expires: int = HOUR,
    max_bytes: int = MAX_OBJECT_BYTES,
    names: Sequence[str] = (),
    endpoint_url: str | None = None,
    local: bool = False,
) -> str:
    """Sign a grant for `agent push`, as JSON: whoever has it may write any object below the prefix until it expires.

    `prefix` is s3://BUCKET/PREFIX, `expires` seconds from now (at most 7 days), `max_bytes` the size of the largest
    object. With `names` it is one of presigned PUTs for these alone, for a store that takes no forms. The bucket is at
    `endpoint_url`, AWS if None, or one of the embedded store if `local`. Raise BadInput, Expiry or NoCredentials.
    """
    from agent.grant import dump
    from provisioner.s3url import parse_url

    where = parse_url(prefix)
    signer = _link_signer(where.bucket, expires, endpoint_url, local=local)
    return str(dump(signer.grant(where.prefix, max_bytes=max_bytes, names=names)))


def download_url(
    url: str, *, expires: int = HOUR, filename: str = "", endpoint_url: str | None = None, local: bool = False
) -> Link:
    """Sign a download link of one object, s3://BUCKET/KEY: whoever has its `url` may fetch it until it expires.

    A browser saves it as `filename`. It isn't checked that the object exists. The rest is as for `sign`.
    """
    from provisioner.links.headers import disposition
    from provisioner.s3url import parse_object_url

    where = parse_object_url(url)
    signer = _link_signer(where.bucket, expires, endpoint_url, local=local)
    overrides = {"content-disposition": disposition(filename)} if filename else {}
    return signer.get(where.key, overrides=overrides, file=filename)


def upload_url(  # noqa: PLR0913 - each is an option of `provision url put`
    url: str,
    *,
    expires: int = HOUR,
    size: int | None = None,
    content_type: str = "",
    sha256: str = "",
    overwrite: bool = True,
    endpoint_url: str | None = None,
    local: bool = False,
) -> Link:
    """Sign an upload slot of one object, s3://BUCKET/KEY: who has it may write that object by PUT until it expires.

    The request must carry exactly the link's `headers`. They fix the size in bytes, the content type and the sha256
    (hex) if given and, unless `overwrite`, make the store refuse to replace an object. The rest is as for `sign`.
    """
    from provisioner.s3url import parse_object_url

    where = parse_object_url(url)
    signer = _link_signer(where.bucket, expires, endpoint_url, local=local)
    return signer.put(where.key, size=size, content_type=content_type, sha256=sha256, overwrite=overwrite)


def __getattr__(name: str) -> object:
    if name not in _TYPES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_TYPES[name]), name)


def _location(store: str | StoreLocation | None, endpoint_url: str | None) -> StoreLocation | None:
    if not isinstance(store, str):
        if endpoint_url is not None:
            raise BadInput("needs a store, as s3://BUCKET/PREFIX", argument="endpoint_url")
        return store
    from provisioner.jobs.stores import location_of

    return location_of(store, endpoint_url)


def _link_signer(bucket: str, seconds: int, endpoint_url: str | None, *, local: bool) -> LinkSigner:
    from provisioner.jobs.stores import link_opener

    return link_opener(endpoint_url, seconds, local=local)(bucket)[1]
