"""job.yaml to a frozen JobSpec, or every fault of it at once.

What a key may hold stands in `provisioner.jobschema`; this module applies it, checks what concerns several keys
together, and reads the files that the job names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner import crosscheck, errors, jobschema, localfiles, marked_yaml, schema, units
from provisioner.faults import At, Faults
from provisioner.jobschema import Options, json_schema
from provisioner.overrides import apply

__all__ = [
    "FileSpec",
    "InputSpec",
    "JobSpec",
    "OutputSpec",
    "RunSpec",
    "SignerSpec",
    "StoreSpec",
    "VmSpec",
    "json_schema",
    "load",
    "parse",
]


@dataclass(frozen=True)
class StoreSpec:
    """Where results go. `prefix` has no slash at its ends and may be empty."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    addressing: str = "auto"  # auto, path or virtual
    profile: str | None = None
    method: str = "auto"  # auto (post, or put where the store takes no forms), post or put


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
    """A file that the VM pulls from the bucket. `source` is a local file, or an s3:// URL in the job's bucket."""

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
    max_bytes: int = jobschema.OBJECT_LIMIT
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


def load(path: Path, overrides: Sequence[str] = (), providers: Options | None = None) -> JobSpec:
    """Read job.yaml, apply ``--set`` overrides to it, and read the files it names.

    Raises BadInput, with every fault in its `faults`.
    """
    faults = Faults(str(path), path.parent)
    document = marked_yaml.load(_text(path), where=str(path), complain=faults.add)
    if document is None and not faults.found:
        faults.add(str(path), "", "an empty file", "a mapping with at least name and run")
    if isinstance(document, Mapping):
        document = apply(document, overrides, faults)
    elif faults.found:
        faults.stop()
    return _parse(document, faults, providers)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(marked_yaml.MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.BadInput(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.BadInput(f"{str(path)[-120:]} can't be read: {reason}.", hint="Name a job.yaml.") from None
    if len(content) > marked_yaml.MAX_BYTES:
        limit = units.show_size(marked_yaml.MAX_BYTES)
        raise errors.BadInput(f"{path} is larger than {limit}.", hint="Put large content under inputs.")
    return text


def parse(document: object, *, base: Path, where: str, providers: Options | None = None) -> JobSpec:
    """Turn a document into a JobSpec. File names in it are relative to `base`; `where` names it in faults.

    Raises BadInput, with every fault in its `faults`.
    """
    return _parse(document, Faults(where, base), providers)


def _parse(document: object, faults: Faults, providers: Options | None) -> JobSpec:
    machine = document.get("vm") if isinstance(document, Mapping) else None
    provider = machine.get("provider") if isinstance(machine, Mapping) else None
    whole = jobschema.job(providers, provider)
    schema.check(document, whole, At(faults))
    written = document if isinstance(document, Mapping) else {}
    try:
        crosscheck.check(written, whole, faults)
        faults.stop()
        made = schema.read(written, whole)
        run = _run(made["run"], written["run"], faults.base)
        inputs = tuple(_input(each, faults.base) for each in made["inputs"])
    except OSError as error:  # checked a moment ago, and gone since
        raise errors.BadInput(f"{error.filename} can't be read: {error.strerror}.", hint="Try again.") from None
    return JobSpec(
        **{
            **made,
            "store": _store(made["store"]) if "store" in made else None,
            "vm": _vm(made["vm"]),
            "signer": SignerSpec(**made["signer"]) if "signer" in made else None,
            "run": run,
            "inputs": inputs,
            "outputs": tuple(OutputSpec(**each) for each in made["outputs"]),
        }
    )


def _store(made: Mapping[str, Any]) -> StoreSpec:
    bucket, prefix = localfiles.split_url(made["url"])
    return StoreSpec(bucket, prefix.strip("/"), **{key: each for key, each in made.items() if key != "url"})


def _vm(made: Mapping[str, Any]) -> VmSpec:
    options = {key: each for key, each in made.items() if key not in jobschema.VM}
    return VmSpec(made.get("provider"), made["boot_budget"], options)


def _run(made: Mapping[str, Any], written: Mapping[str, Any], base: Path) -> RunSpec:
    rest = {key: each for key, each in made.items() if key not in ("script", "files", "env")}
    files = [_file(each, base) for each in made["files"]]
    if "script" in made:
        name = localfiles.landing(made["script"])
        files.append(FileSpec(name, (base / made["script"]).read_bytes(), "0755"))
        rest["command"] = (f"./{name}",)
    return RunSpec(**rest, env=_env(written.get("env", {})), files=tuple(files))


def _env(written: Mapping[str, Any]) -> dict[str, str]:
    """Keep numbers as they were written: 1.10 is not 1.1."""
    marks = getattr(written, "marks", {})
    return {
        key: each if isinstance(each, str) else (marks[key].raw if key in marks else str(each))
        for key, each in written.items()
    }


def _file(made: Mapping[str, Any], base: Path) -> FileSpec:
    path = _path(made)
    if "content" in made:
        return FileSpec(path, made["content"].encode(), made.get("mode", "0644"))
    source = base / made["source"]
    return FileSpec(path, source.read_bytes(), made.get("mode") or localfiles.mode(source))


def _input(made: Mapping[str, Any], base: Path) -> InputSpec:
    source = made["source"]
    if localfiles.is_url(source):
        return InputSpec(_path(made), source, made.get("mode", "0644"))
    return InputSpec(_path(made), base / source, made.get("mode") or localfiles.mode(base / source))


def _path(made: Mapping[str, Any]) -> str:
    return localfiles.landing(made.get("path") or made["source"])
