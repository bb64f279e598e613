"""job.yaml to a JobSpec, or every fault of it at once.

What a key may hold stands in `provisioner.job.keys`; this module applies it, checks what concerns several keys
together, and reads the files that the job names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provisioner import errors, units
from provisioner.job import files, keys, rules, validate, yaml_positions
from provisioner.job.keys import Options
from provisioner.job.overrides import apply
from provisioner.job.problems import Faults, Location
from provisioner.job.spec import FileSpec, InputSpec, JobSpec, OutputSpec, RunSpec, SignerSpec, VmSpec
from provisioner.s3url import StoreSpec, is_s3_url, split_url


def load(path: Path, overrides: Sequence[str] = (), providers: Options | None = None) -> JobSpec:
    """Read job.yaml, apply ``--set`` overrides to it, and read the files it names.

    Raises BadInput, with every fault in its `faults`.
    """
    faults = Faults(str(path), path.parent)
    document = yaml_positions.load(_text(path), where=str(path), complain=faults.add)
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
            content = file.read(yaml_positions.MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.BadInput(f"{path} is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.BadInput(f"{str(path)[-120:]} can't be read: {reason}", hint="name a job.yaml") from None
    if len(content) > yaml_positions.MAX_BYTES:
        limit = units.show_size(yaml_positions.MAX_BYTES)
        raise errors.BadInput(f"{path} is larger than {limit}", hint="put large content under inputs")
    return text


def parse(document: object, *, base: Path, where: str, providers: Options | None = None) -> JobSpec:
    """Turn a document into a JobSpec. File names in it are relative to `base`; `where` names it in faults.

    Raises BadInput, with every fault in its `faults`.
    """
    return _parse(document, Faults(where, base), providers)


def _parse(document: object, faults: Faults, providers: Options | None) -> JobSpec:
    machine = document.get("vm") if isinstance(document, Mapping) else None
    provider = machine.get("provider") if isinstance(machine, Mapping) else None
    whole = keys.job(providers, provider)
    validate.check(document, whole, Location(faults))
    written = document if isinstance(document, Mapping) else {}
    try:
        rules.check(written, whole, faults)
        faults.stop()
        made = validate.read(written, whole)
        run = _run(made["run"], written["run"], faults.base)
        inputs = tuple(_input(each, faults.base) for each in made["inputs"])
    except OSError as error:  # checked a moment ago, and gone since
        raise errors.BadInput(f"{error.filename} can't be read: {error.strerror}", hint="try again") from None
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
    bucket, prefix = split_url(made["url"])
    return StoreSpec(bucket, prefix.strip("/"), **{key: each for key, each in made.items() if key != "url"})


def _vm(made: Mapping[str, Any]) -> VmSpec:
    options = {key: each for key, each in made.items() if key not in keys.VM}
    return VmSpec(made.get("provider"), made["boot_budget"], options)


def _run(made: Mapping[str, Any], written: Mapping[str, Any], base: Path) -> RunSpec:
    rest = {key: each for key, each in made.items() if key not in ("script", "files", "env")}
    found = [_file(each, base) for each in made["files"]]
    if "script" in made:
        name = files.destination(made["script"])
        found.append(FileSpec(name, (base / made["script"]).read_bytes(), "0755"))
        rest["command"] = (f"./{name}",)
    return RunSpec(**rest, env=_env(written.get("env", {})), files=tuple(found))


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
    return FileSpec(path, source.read_bytes(), made.get("mode") or files.mode(source))


def _input(made: Mapping[str, Any], base: Path) -> InputSpec:
    source = made["source"]
    if is_s3_url(source):
        return InputSpec(_path(made), source, made.get("mode", "0644"))
    return InputSpec(_path(made), base / source, made.get("mode") or files.mode(base / source))


def _path(made: Mapping[str, Any]) -> str:
    return files.destination(made.get("path") or made["source"])
