"""job.json: the operator's record of a job in the bucket, so that any operator's machine can go on with it.

It holds what was launched (the spec, with the job's own files), where, and until when. It holds no credential and no
signature: a retry signs anew. Whoever may read the bucket can read the job's environment in it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from provisioner.clock import from_iso, iso
from provisioner.errors import BadInput, NotFound
from provisioner.job.spec import FileSpec, JobSpec, OutputSpec, RunSpec, SignerSpec, VmSpec
from provisioner.plan.layout import JobKeys, store_root
from provisioner.plan.plan import StagedInput
from provisioner.providers.base import Instance
from provisioner.s3.bucket import Store
from provisioner.s3url import StoreSpec, show_url

VERSION = 1
Attempt = tuple[str, int]  # a task and the number of its attempt, from 1


@dataclass(frozen=True)
class JobRecord:
    """One job. `launched` turns true when every task of the first attempt has its VM.

    `agents` are the keys of the archives that its VMs may fetch: while a record names one, it is kept.
    """

    job: str
    spec: JobSpec
    provider: str
    created: datetime
    deadline: datetime
    expires: datetime
    inputs: tuple[StagedInput, ...] = ()
    instances: tuple[Instance, ...] = ()
    launched: bool = False
    attempts: Mapping[str, int] = field(default_factory=dict)
    agents: tuple[str, ...] = ()

    def with_instances(self, more: Sequence[Instance]) -> JobRecord:
        """The record with these instances added; one that is there already stays once."""
        known = dict.fromkeys([*self.instances, *more])
        attempts = dict(self.attempts)
        for item in more:
            attempts[item.task] = max(item.attempt, attempts.get(item.task, 0))
        return dataclasses.replace(self, instances=tuple(known), attempts=attempts)


def attempts_with_vm(record: JobRecord) -> set[Attempt]:
    """The attempts for which a VM was started, as far as the record knows."""
    return {(item.task, item.attempt) for item in record.instances}


def keys_of(store: Store, record: JobRecord) -> JobKeys:
    """Return the keys of a job in its store."""
    return JobKeys(store.prefix, record.job)


def read_record(store: Store, job: str) -> JobRecord:
    """Read a job's record. Raise NotFound when the store has none of that id, BadInput for what is no record."""
    if not job or "/" in job:
        message = f"{job!r} is no job id"
        raise BadInput(message)
    key = JobKeys(store.prefix, job).record
    try:
        return parse(store.get(key), key)
    except NotFound:
        message = f"there is no job {job} in {show_url(store.bucket.name, store.prefix)}"
        raise NotFound(message, hint="`provision jobs` lists those there are") from None


def write_record(store: Store, record: JobRecord) -> None:
    """Write a job's record over the one that is there: of two who write at once, the last one's stays."""
    store.put(keys_of(store, record).record, dump(record))


def job_ids(store: Store) -> list[str]:
    """The ids of the jobs in a store, by name: its folders, but for those that begin with a dot."""
    return [name for name in store.folders(store_root(store.prefix)) if name and not name.startswith(".")]


def dump(record: JobRecord) -> bytes:
    """Write a record as JSON."""
    spec = dataclasses.asdict(record.spec)
    spec[
        "inputs"
    ] = []  # where a file lay on the operator's machine means nothing elsewhere; `inputs` says what it became
    for item in spec["run"]["files"]:
        item["content"] = base64.b64encode(item["content"]).decode()
    document = {
        "version": VERSION,
        "job": record.job,
        "provider": record.provider,
        "created": iso(record.created),
        "deadline": iso(record.deadline),
        "expires": iso(record.expires),
        "launched": record.launched,
        "tasks": list(record.spec.tasks),
        "attempts": dict(record.attempts),
        "instances": [dataclasses.asdict(item) for item in record.instances],
        "inputs": [dataclasses.asdict(item) for item in record.inputs],
        "agents": list(record.agents),
        "spec": spec,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def digest(spec: JobSpec, provider: str) -> str:
    """A hash of everything the operator wrote: two launches with the same one are the same launch."""
    written = dataclasses.asdict(spec)
    if spec.run.agent == "auto":  # as before there was a choice: a launch that was cut off then is still found
        del written["run"]["agent"]
    return hashlib.sha256(json.dumps([provider, written], sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def parse(data: bytes, where: str) -> JobRecord:
    """Read a record. Raise BadInput, naming `where`, when it isn't one."""
    try:
        raw = json.loads(data)
        if raw["version"] != VERSION:
            message = f"{where} is version {raw['version']!s:.20}; this provision reads version {VERSION}"
            raise BadInput(message, hint="use the provision that launched the job")
        return JobRecord(
            job=raw["job"],
            spec=_spec(raw["spec"]),
            provider=raw["provider"],
            created=from_iso(raw["created"]),
            deadline=from_iso(raw["deadline"]),
            expires=from_iso(raw["expires"]),
            inputs=tuple(StagedInput(**item) for item in raw["inputs"]),
            instances=tuple(Instance(**item) for item in raw["instances"]),
            launched=raw["launched"],
            attempts=raw["attempts"],
            agents=tuple(map(str, raw.get("agents", ()))),
        )
    except (ValueError, KeyError, TypeError) as error:
        message = f"{where} is not a job record: {type(error).__name__}"
        raise BadInput(message) from None


def _spec(raw: dict[str, Any]) -> JobSpec:
    run = raw["run"]
    files = tuple(FileSpec(item["path"], base64.b64decode(item["content"]), item["mode"]) for item in run["files"])
    return JobSpec(
        **{
            **raw,
            "run": RunSpec(**{**run, "command": tuple(run["command"]), "files": files}),
            "store": StoreSpec(**raw["store"]) if raw["store"] else None,
            "vm": VmSpec(**raw["vm"]),
            "signer": SignerSpec(**raw["signer"]) if raw.get("signer") else None,
            "inputs": (),
            "outputs": tuple(OutputSpec(**item) for item in raw["outputs"]),
            "array": tuple(raw["array"]),
        }
    )
