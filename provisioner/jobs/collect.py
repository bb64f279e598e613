"""Brings results home. Trusts only manifests, verifies each file, and writes nowhere but below the folder it was given.

Safe to run again: a file that is there and right is left alone, and one that is being fetched has a temporary name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from agent.grant import decode_name
from agent.layout import PART
from provisioner import atomic
from provisioner.errors import FreepostError, Incomplete, Integrity, NotFound
from provisioner.jobs import events, status
from provisioner.jobs.record import Attempt, JobRecord, keys_of
from provisioner.jobs.status import NAMED_TASKS, TaskStatus
from provisioner.output import Event, Report
from provisioner.plan.layout import JobKeys
from provisioner.retry import Download
from provisioner.s3.bucket import Store

WORKERS = 16
SHOWN_FILES = 20  # more are only counted
_BLOCK = 1 << 20


class _Hash(Protocol):
    """What is used of a hash of hashlib, whose type has no public name."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""


@dataclass
class Collected:
    """What `collect` did. Paths are relative to the folder.

    `files` has each file that is there now; `already` of them were there before, and `bytes` were fetched. `failed`
    maps paths to what went wrong, `damaged` says that one of them is not what was sent. `missing` has the tasks that
    have not succeeded.
    """

    files: list[str] = field(default_factory=list)
    bytes: int = 0
    already: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    damaged: bool = False
    missing: list[TaskStatus] = field(default_factory=list)


def collect(store: Store, record: JobRecord, folder: Path, report: Report) -> Collected:
    """Fetch what every task's latest manifest lists to `folder` (``TASK/`` below it for an array)."""
    done = Collected()
    keys = keys_of(store, record)
    for item in status.read(store, record):
        if not item.succeeded:
            done.missing.append(item)
        if not item.manifest:
            continue
        below = f"{item.task}/" if record.spec.array else ""
        fetch = _Fetch(store, keys.outputs(item.task, item.attempt), folder / below, below)
        manifest = read_manifest(store, keys, item.key)
        with ThreadPoolExecutor(WORKERS) as pool:
            for outcomes in pool.map(lambda work: work(), fetch.work(manifest)):
                for path, size, error in outcomes:
                    _note(done, report, path, size, error)
    return done


def summary(done: Collected, folder: Path) -> str:
    """One line that names what there is now, and one for each file if they are few."""
    few = done.files if len(done.files) <= SHOWN_FILES else []
    text = f"{len(done.files)} files in {folder} ({done.bytes} bytes fetched, {done.already} files were there already)"
    return text + "".join(f"\n{folder / path}" for path in few)


def report_summary(done: Collected, folder: Path, report: Report) -> None:
    """Tell what there is now, as the event `events.COLLECT`."""
    data = {"folder": str(folder), "files": done.files, "bytes": done.bytes, "already": done.already}
    report(Event(events.COLLECT, summary(done, folder), {**data, "failed": done.failed}))


def require_files(record: JobRecord, done: Collected) -> None:
    """Raise Integrity when a file is damaged, Incomplete when one could not be fetched."""
    if done.failed:
        message = f"{len(done.failed)} files of {record.job} could not be collected"
        raise (Integrity if done.damaged else Incomplete)(
            message, hint="the lines above say which and why; collect again"
        )


def require_tasks(record: JobRecord, done: Collected) -> None:
    """Raise Incomplete, naming them, when tasks have not succeeded."""
    if done.missing:
        names = ", ".join(f"{item.task} ({item.event})" for item in done.missing[:NAMED_TASKS])
        message = f"{len(done.missing)} of {len(record.spec.tasks)} tasks have not succeeded: {names}"
        raise Incomplete(message, hint="collect again when they have")


def _note(done: Collected, report: Report, path: str, size: int | None, error: FreepostError | None) -> None:
    if error is not None:
        done.failed[path] = error.message
        done.damaged = done.damaged or isinstance(error, Integrity)
        report(Event("failed", f"{path}: {error.message}", {"path": path, "error": error.message}))
        return
    done.files.append(path)
    if size is None:
        done.already += 1
    else:
        done.bytes += size
        report(Event("collected", f"{path} ({size} bytes)", {"path": path, "size": size}))


def read_manifest(store: Store, keys: JobKeys, attempt: Attempt) -> dict[str, Any]:
    """Read a manifest with its segments, each verified. Raise Integrity when it is not what the agent wrote."""
    key, prefix = keys.manifest(*attempt), keys.status(*attempt)
    try:
        manifest: dict[str, Any] = json.loads(store.get(key))
        entries: list[dict[str, Any]] = []
        for segment in manifest["more"]:
            data = store.get(prefix + segment["name"])
            if hashlib.sha256(data).hexdigest() != segment["sha256"]:
                message = f"{prefix}{segment['name']} is not what the manifest says"
                raise Integrity(message)
            entries += json.loads(data)
        manifest["entries"] = entries + manifest["entries"]
    except (ValueError, KeyError, TypeError):
        message = f"{key} is no manifest"
        raise Integrity(message, hint="it may have been written by something other than the agent") from None
    return manifest


Outcome = tuple[str, "int | None", "FreepostError | None"]  # path; bytes fetched, None if it was there; what went wrong


class _Fetch:
    """Fetches the files of one manifest, from `prefix` to `folder`; `shown` goes before their names."""

    def __init__(self, store: Store, prefix: str, folder: Path, shown: str) -> None:
        self._store = store
        self._prefix = prefix
        self._folder = folder
        self._shown = shown

    def work(self, manifest: Mapping[str, Any]) -> Iterator[Callable[[], list[Outcome]]]:
        """Yield one function a file or a bundle. Each returns what became of it and raises no FreepostError."""
        bundles = {item["path"]: item for item in manifest.get("bundles", ())}
        packed: dict[str, list[Mapping[str, Any]]] = {}
        for entry in manifest["entries"]:
            if "bundle" in entry:
                packed.setdefault(entry["bundle"], []).append(entry)
            else:
                yield partial(self._plain, entry)
        for path, entries in packed.items():
            yield partial(self._bundle, path, bundles.get(path, {}), entries)

    def _plain(self, entry: Mapping[str, Any]) -> list[Outcome]:
        def fill(file: IO[bytes]) -> str:
            names = (
                [PART % (entry["path"], number) for number in range(1, len(entry["parts"]) + 1)]
                if "parts" in entry
                else [entry["path"]]
            )
            pieces = entry.get("parts", [entry])
            whole = hashlib.sha256()
            for name, piece in zip(names, pieces, strict=True):
                self._download(name, piece, file, whole)
            return whole.hexdigest()

        return [self._outcome(entry, fill)]

    def _bundle(self, path: str, bundle: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> list[Outcome]:
        wanted = [entry for entry in entries if not self._is_there(entry)]
        there: list[Outcome] = [(self._name(entry), None, None) for entry in entries if entry not in wanted]
        if not wanted:
            return there
        with tempfile.TemporaryFile() as tar:
            try:
                self._download(path, bundle, tar, hashlib.sha256())
            except (FreepostError, KeyError) as error:
                failure = (
                    error
                    if isinstance(error, FreepostError)
                    else Integrity(f"the manifest doesn't list its bundle {path}")
                )
                return there + [(self._name(entry), None, failure) for entry in wanted]
            return there + [self._outcome(entry, partial(_extract, tar, entry)) for entry in wanted]

    def _outcome(self, entry: Mapping[str, Any], fill: Callable[[IO[bytes]], str]) -> Outcome:
        try:
            return self._name(entry), self._write_file(entry, fill), None
        except FreepostError as error:
            return self._name(entry), None, error
        except OSError as error:
            failure = FreepostError(
                f"it can't be written: {error.strerror}", hint="free some space, or name another folder"
            )
            return self._name(entry), None, failure
        except (KeyError, TypeError, ValueError):
            return self._name(entry), None, Integrity("the manifest's entry for it makes no sense")

    def _write_file(self, entry: Mapping[str, Any], fill: Callable[[IO[bytes]], str]) -> int | None:
        """Write one file under a temporary name, verify it, and rename it. None when it was there already."""
        path = self._destination(entry["path"])
        if entry.get("type") == "dir":
            path.mkdir(parents=True, exist_ok=True)
            return None
        if self._is_there(entry):
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path) as file:
            digest = fill(file)
            if file.tell() != entry["size"] or digest != entry.get("sha256", digest):
                message = f"the {file.tell()} bytes that are stored are not the {entry['size']} that the VM sent"
                raise Integrity(message)
            file.flush()
            os.fchmod(file.fileno(), int(entry["mode"], 8) & 0o777)
            os.utime(file.fileno(), (entry["mtime"], entry["mtime"]))
        return int(entry["size"])

    def _is_there(self, entry: Mapping[str, Any]) -> bool:
        """Tell whether an earlier run fetched this very file; one without a hash of the whole is fetched again."""
        try:
            path = self._destination(entry["path"])
            if path.is_symlink() or path.stat().st_size != entry["size"] or "sha256" not in entry:
                return False
            with path.open("rb") as file:
                return _hash(file) == str(entry["sha256"])
        except (OSError, KeyError, ValueError, Integrity):
            return False

    def _destination(self, name: str) -> Path:
        """Where a manifest's path goes: below the folder, through no link that leads out of it, or Integrity."""
        relative = decode_name(name.rstrip("/"))
        steps = relative.split("/")
        inside = "\0" not in relative and not any(step in ("", ".", "..") for step in steps)
        path = self._folder / relative if inside else self._folder
        if not inside or not path.parent.resolve().is_relative_to(self._folder.resolve()):
            message = "its path leads out of the folder"
            raise Integrity(message, hint="the manifest was not written by an honest agent; look at what ran in the VM")
        return path

    def _download(self, name: str, piece: Mapping[str, Any], file: IO[bytes], whole: _Hash) -> None:
        """Append one object to `file` and to the hash of the whole, and verify it by its own entry."""
        digest = hashlib.sha256()
        start = file.tell()

        def take(data: bytes) -> None:
            file.write(data)
            digest.update(data)
            whole.update(data)

        try:
            self._store.fetch(self._prefix + name, Download(take))
        except NotFound:
            message = f"the manifest lists {name}, but the store has no such object"
            raise Integrity(message) from None
        if digest.hexdigest() != piece.get("sha256", digest.hexdigest()) or file.tell() - start != piece["size"]:
            message = f"the object {name} is not what the VM sent"
            raise Integrity(message)

    def _name(self, entry: Mapping[str, Any]) -> str:
        return self._shown + str(entry.get("path", "?"))


def _extract(tar: IO[bytes], entry: Mapping[str, Any], file: IO[bytes]) -> str:
    """Copy one file out of a bundle; return its hash."""
    digest = hashlib.sha256()
    tar.seek(entry["offset"])
    left = entry["size"]
    while left and (block := tar.read(min(left, _BLOCK))):
        file.write(block)
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _hash(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
