"""A job as the operator wrote it, frozen: one class for each mapping of job.yaml.

`provisioner.job.load` reads it from a job.yaml, `provisioner.jobs.record` from a job's record, which needs none of
that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.s3url import MAX_OBJECT_BYTES, StoreSpec


@dataclass(frozen=True)
class SignerSpec:
    """The role whose sessions sign. `duration` is seconds; None: as long as the job may take."""

    role_arn: str
    external_id: str | None = None
    duration: int | None = None
    endpoint_url: str | None = None


@dataclass(frozen=True)
class FileSpec:
    """A small file that travels in the user-data. `path` is relative to the job's directory."""

    path: str
    content: bytes = field(repr=False)
    mode: str = "0644"


@dataclass(frozen=True)
class InputSpec:
    """A file that the VM downloads from the bucket. `source` is a local file, or an s3:// URL in the job's bucket."""

    path: str
    source: Path | str
    mode: str = "0644"


@dataclass(frozen=True)
class OutputSpec:
    """Files of the job's directory to upload. `max_size` (bytes) is for one file that a PUT may have to bring."""

    glob: str
    bundle: bool = False
    checkpoint: bool = False
    max_size: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """The work. `timeout` and `grace` are seconds; a `user` of None is the agent's own, root.

    `agent` is how what isn't the agent's core reaches the VM: inline, bucket, or auto: inline where it has room.
    """

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # people put secrets here
    files: tuple[FileSpec, ...] = ()
    user: str | None = "job"
    timeout: int = 3600
    grace: int = 60
    agent: str = "auto"

    @property
    def account(self) -> str | None:
        """The user that the job runs as; None for the agent's own, root."""
        return None if self.user == "root" else self.user


@dataclass(frozen=True)
class VmSpec:
    """The machine. `boot_budget` is seconds; `options` are the provider's own keys, lists as tuples."""

    provider: str | None = None
    boot_budget: int = 600
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSpec:
    """A whole job.yaml. `expires`, `renew` and `checkpoint` are seconds, `max_bytes` bounds one object."""

    name: str
    run: RunSpec
    store: StoreSpec | None = None
    vm: VmSpec = field(default_factory=VmSpec)
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    array: tuple[int, ...] = ()
    expires: int | None = None
    renew: int | None = None
    retries: int = 0
    max_bytes: int = MAX_OBJECT_BYTES
    checkpoint: int | None = None
    signer: SignerSpec | None = None
    revoke: str = "on-finish"  # or never
    isolation: str | None = None  # task, group, or None for what suits the number of tasks

    @property
    def tasks(self) -> tuple[str, ...]:
        """The name of each task: the indexes of the array, or ``0`` for a single VM."""
        return tuple(str(index) for index in self.array) or ("0",)

    @property
    def method(self) -> str:
        """How its VMs upload: auto, post or put."""
        return self.store.method if self.store else "auto"

    @property
    def deadline(self) -> int:
        """Seconds from launch until the job is over, one way or the other."""
        return self.vm.boot_budget + self.run.timeout + self.run.grace

    @property
    def signed(self) -> int:
        """Seconds for which what a launch signs has to work: all of the job, or until it can have been renewed."""
        return self.deadline if self.renew is None else min(self.renew, self.vm.boot_budget)
