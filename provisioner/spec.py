"""job.yaml to a frozen JobSpec, or every fault of it at once.

What a key may hold stands in `provisioner.jobschema`; this module applies it, checks what concerns several keys
together, and reads the files that the job names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner import errors, jobschema, localfiles, marked_yaml, schema, units
from provisioner.jobschema import Options, json_schema
from provisioner.overrides import apply
from provisioner.schema import At, Faults

__all__ = [
    "FileSpec",
    "InputSpec",
    "JobSpec",
    "OutputSpec",
    "RunSpec",
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
    method: str = "post"  # auto, post or put


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
    """Files of the job's directory to upload."""

    glob: str
    bundle: bool = False
    checkpoint: bool = False


@dataclass(frozen=True)
class RunSpec:
    """The work. `timeout` and `grace` are seconds; a `user` of None is the agent's own, root."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # people put secrets here
    files: tuple[FileSpec, ...] = ()
    user: str | None = "job"
    timeout: int = 3600
    grace: int = 60


@dataclass(frozen=True)
class VmSpec:
    """The machine. `boot_budget` is seconds; `options` are the provider's own keys."""

    provider: str | None = None
    boot_budget: int = 600
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSpec:
    """A whole job.yaml. `expires` and `checkpoint` are seconds, `max_bytes` bounds one object."""

    name: str
    run: RunSpec
    store: StoreSpec | None = None
    vm: VmSpec = field(default_factory=VmSpec)
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    array: tuple[int, ...] = ()
    expires: int | None = None
    retries: int = 0
    max_bytes: int = jobschema.OBJECT_LIMIT
    checkpoint: int | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The name of each task: the indexes of the array, or ``0`` for a single VM."""
        return tuple(str(index) for index in self.array) or ("0",)

    @property
    def deadline(self) -> int:
        """Seconds from launch until the job is over, one way or the other."""
        return self.vm.boot_budget + self.run.timeout + self.run.grace


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
        raise errors.BadInput(
            f"{schema.shorten(str(path))} can't be read: {reason}.", hint="Name a job.yaml."
        ) from None
    if len(content) > marked_yaml.MAX_BYTES:
        limit = units.show_size(marked_yaml.MAX_BYTES)
        raise errors.BadInput(f"{path} is larger than {limit}.", hint="Put large content under inputs.")
    return text


def parse(document: Any, *, base: Path, where: str, providers: Options | None = None) -> JobSpec:
    """Turn a document into a JobSpec. File names in it are relative to `base`; `where` names it in faults.

    Raises BadInput, with every fault in its `faults`.
    """
    return _parse(document, Faults(where, base), providers)


def _parse(document: Any, faults: Faults, providers: Options | None) -> JobSpec:
    machine = document.get("vm") if isinstance(document, Mapping) else None
    provider = machine.get("provider") if isinstance(machine, Mapping) else None
    whole = jobschema.job(providers, provider)
    schema.check(document, whole, At(faults))
    if isinstance(document, Mapping):
        _check_together(document, whole, faults)
    faults.stop()
    made = schema.read(document, whole)
    try:
        run = _run(made["run"], document["run"], faults.base)
        inputs = tuple(_input(each, faults.base) for each in made["inputs"])
    except OSError as error:  # checked a moment ago, and gone since
        raise errors.BadInput(f"{error.filename} can't be read: {error.strerror}.", hint="Try again.") from None
    return JobSpec(
        **{
            **made,
            "store": _store(made["store"]) if "store" in made else None,
            "vm": _vm(made["vm"]),
            "run": run,
            "inputs": inputs,
            "outputs": tuple(OutputSpec(**each) for each in made["outputs"]),
        }
    )


def _store(made: Mapping[str, Any]) -> StoreSpec:
    bucket, prefix = split_url(made["url"])
    return StoreSpec(bucket, prefix.strip("/"), **{key: each for key, each in made.items() if key != "url"})


def split_url(url: str) -> tuple[str, str]:
    """Take s3://BUCKET/REST apart."""
    bucket, _, rest = url.removeprefix("s3://").partition("/")
    return bucket, rest


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


def _check_together(document: Mapping[str, Any], whole: schema.Schema, faults: Faults) -> None:
    """Check what concerns several keys, as far as each is right by itself."""
    good = {key: each for key, each in document.items() if key in jobschema.JOB and not faults.below(key)}
    _check_times(document, whole, faults)
    _check_places(document, faults)
    if "store" in good:
        _check_buckets(document, whole, faults)
    marked = [each for each in good.get("outputs", ()) if isinstance(each, Mapping) and each.get("checkpoint")]
    if "checkpoint" in good and not marked and not faults.below("outputs"):
        at = At(faults).child(document, "checkpoint")
        at.fault("no output to take checkpoints of", "outputs with checkpoint: true, or no checkpoint key")


def _check_times(document: Mapping[str, Any], whole: schema.Schema, faults: Faults) -> None:
    spans = [("vm", "boot_budget"), ("run", "timeout"), ("run", "grace")]
    if not all(
        isinstance(document.get(part, {}), Mapping) and not faults.below(f"{part}.{key}") for part, key in spans
    ):
        return
    known = whole["properties"]
    values = [
        units.seconds(document.get(part, {}).get(key, known[part]["properties"][key]["default"])) for part, key in spans
    ]
    needed = f"{units.show_seconds(sum(values))} (vm.boot_budget + run.timeout + run.grace: " + (
        " + ".join(map(units.show_seconds, values)) + ")"
    )
    at = At(faults).child(document, "expires")
    if sum(values) > jobschema.WEEK:
        at = At(faults).child(document, "run").child(document["run"], "timeout")
        at.fault(f"a job of {needed}", "at most 7d, the longest life of a policy")
    elif "expires" in document and not faults.below("expires"):
        expires = units.seconds(document["expires"])
        if expires < sum(values):
            at.fault(f"{units.show_seconds(expires)}, which ends before the job may", f"at least {needed}")


def _places(document: Mapping[str, Any], faults: Faults) -> Iterator[tuple[At, str]]:
    """Yield every file that will lie in the job's directory, as far as it's known where."""
    run = document.get("run")
    lists = [(At(faults), document, "inputs")]
    if isinstance(run, Mapping):
        at = At(faults).child(document, "run")
        lists.insert(0, (at, run, "files"))
        if isinstance(run.get("script"), str) and not faults.below("run.script"):
            yield at.child(run, "script"), localfiles.landing(run["script"])
    for parent, container, key in lists:
        found = container.get(key)
        for index, each in enumerate(found if isinstance(found, (list, tuple)) else ()):
            at = parent.child(container, key).child(found, index)
            if not faults.below(at.path):
                yield at, _path(each if isinstance(each, Mapping) else {"source": each})


def _check_places(document: Mapping[str, Any], faults: Faults) -> None:
    """Fault files that collide in the job's directory: the same name, or one where another needs a folder."""
    taken: dict[str, str] = {}
    folders: dict[str, str] = {}
    for at, path in _places(document, faults):
        above = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
        other = taken.get(path) or folders.get(path) or next(filter(None, map(taken.get, above)), None)
        if other:
            at.fault(f"{schema.show(path)}, where {other} lands too", "a place of its own for each file (path:)")
        taken.setdefault(path, at.path)
        folders.update(dict.fromkeys(above, at.path))


def _check_buckets(document: Mapping[str, Any], whole: schema.Schema, faults: Faults) -> None:
    """Fault inputs from another bucket: the policy's signer may have no right to it."""
    bucket = split_url(schema.read(document["store"], whole["properties"]["store"])["url"])[0]
    found = document.get("inputs", ())
    for index, each in enumerate(found if isinstance(found, (list, tuple)) else ()):
        source = each.get("source") if isinstance(each, Mapping) else each
        at = At(faults).child(document, "inputs").child(found, index)
        if isinstance(source, str) and localfiles.is_url(source) and not faults.below(at.path):
            if split_url(source)[0] != bucket:
                at.fault(schema.show(source), f"an object of the job's own bucket, {bucket}")
