"""What concerns several keys of a job at once: times that must fit, files that collide, buckets that must agree.

Each check runs as far as what it needs is right by itself, so that all faults are told at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from provisioner import units
from provisioner.job import files, keys, validate
from provisioner.job.problems import Faults, Location, show
from provisioner.s3url import is_s3_url, split_url


def check(document: Mapping[str, Any], whole: validate.Schema, faults: Faults) -> None:
    """Note the faults of keys that are right each by itself."""
    named = list(_named_files(document, faults))
    _check_times(document, whole, faults)
    _check_collisions(named)
    _check_total(named, document, faults)
    if "store" in document and not faults.below("store"):
        _check_buckets(named, document["store"], whole)
    _check_checkpoint(document, faults)
    _check_renewal(document, faults)


def _check_renewal(document: Mapping[str, Any], faults: Faults) -> None:
    """Fault what doesn't go with renewed policies."""
    if "renew" not in document:
        return
    whole = Location(faults)
    if "expires" in document:
        whole.child(document, "expires").fault("expires beside renew", "one of them: renew lasts until the deadline")
    if document.get("isolation") == "group":
        whole.child(document, "isolation").fault(
            "a group, whose VMs share one grant, beside renew", "isolation: task, or no renew"
        )
    store = document.get("store")
    if isinstance(store, Mapping) and store.get("method") == "put":
        whole.child(document, "store").child(store, "method").fault(
            "put beside renew: presigned PUTs are not renewed", "post, or no renew"
        )


def _check_checkpoint(document: Mapping[str, Any], faults: Faults) -> None:
    if "checkpoint" not in document or faults.below("checkpoint") or faults.below("outputs"):
        return
    if not any(isinstance(each, Mapping) and each.get("checkpoint") for each in document.get("outputs", ())):
        at = Location(faults).child(document, "checkpoint")
        at.fault("no output to take checkpoints of", "outputs with checkpoint: true, or no checkpoint key")


def _check_times(document: Mapping[str, Any], whole: validate.Schema, faults: Faults) -> None:
    spans = [("vm", "boot_budget"), ("run", "timeout"), ("run", "grace")]
    parts_fit = all(isinstance(document.get(part, {}), Mapping) for part, _ in spans)
    if not parts_fit or any(faults.below(f"{part}.{key}") for part, key in spans):
        return
    known = whole["properties"]
    values = [
        units.seconds(document.get(part, {}).get(key, known[part]["properties"][key]["default"])) for part, key in spans
    ]
    terms = " + ".join(map(units.show_seconds, values))
    needed = f"{units.show_seconds(sum(values))} (vm.boot_budget + run.timeout + run.grace: {terms})"
    renewed = "renew" in document
    if sum(values) > (keys.LONGEST if renewed else keys.WEEK):
        at = Location(faults).child(document, "run").child(document["run"], "timeout")
        most = "at most 90d" if renewed else "at most 7d, the longest life of a policy, unless renew is set"
        at.fault(f"a job of {needed}", most)
    elif "expires" in document and not faults.below("expires"):
        expires = units.seconds(document["expires"])
        if expires < sum(values):
            at = Location(faults).child(document, "expires")
            at.fault(f"{units.show_seconds(expires)}, which ends before the job may", f"at least {needed}")


class _NamedFile(NamedTuple):
    """One file of the job's directory: the key that names it, and the key's value as a mapping."""

    at: Location
    file: Mapping[str, Any]
    small: bool  # travels in the user-data

    @property
    def path(self) -> str:
        return files.destination(self.file.get("path") or self.file["source"])

    def size(self) -> int:
        content = self.file.get("content")
        return (
            len(content.encode()) if content is not None else (self.at.faults.base / self.file["source"]).stat().st_size
        )


def _named_files(document: Mapping[str, Any], faults: Faults) -> Iterator[_NamedFile]:
    """Yield every file that will lie in the job's directory, as far as its key is right."""
    run = document.get("run")
    if isinstance(run, Mapping):
        at = Location(faults).child(document, "run")
        if "script" in run and not faults.below("run.script"):
            yield _NamedFile(at.child(run, "script"), {"source": run["script"]}, small=True)
        yield from _listed(run, "files", at, small=True)
    yield from _listed(document, "inputs", Location(faults), small=False)


def _listed(container: Mapping[str, Any], key: str, parent: Location, *, small: bool) -> Iterator[_NamedFile]:
    found = container.get(key)
    for index, each in enumerate(found if isinstance(found, (list, tuple)) else ()):
        at = parent.child(container, key).child(found, index)
        if not at.faults.below(at.path):
            yield _NamedFile(at, each if isinstance(each, Mapping) else {"source": each}, small)


def _check_collisions(named: Sequence[_NamedFile]) -> None:
    """Fault files that collide in the job's directory: the same name, or one where another needs a folder."""
    taken: dict[str, str] = {}
    folders: dict[str, str] = {}
    for each in named:
        path = each.path
        parts = path.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        other = taken.get(path) or folders.get(path) or next(filter(None, map(taken.get, above)), None)
        if other:
            each.at.fault(f"{show(path)}, where {other} lands too", "a place of its own for each file (path:)")
        taken.setdefault(path, each.at.path)
        folders.update(dict.fromkeys(above, each.at.path))


def _check_total(named: Sequence[_NamedFile], document: Mapping[str, Any], faults: Faults) -> None:
    """Fault small files that together are no longer small."""
    total = sum(each.size() for each in named if each.small)
    if total > files.INLINE_LIMIT:
        limit = units.show_size(files.INLINE_LIMIT)
        at = Location(faults).child(document, "run").child(document["run"], "files")
        at.fault(f"{total} bytes in all", f"at most {limit} together; list larger ones under inputs")


def _check_buckets(named: Sequence[_NamedFile], store: object, whole: validate.Schema) -> None:
    """Fault inputs from another bucket: what signs for the job's own may have no right to it."""
    bucket = split_url(validate.read(store, whole["properties"]["store"])["url"]).bucket
    for each in named:
        source = each.file.get("source", "")
        if is_s3_url(source) and split_url(source).bucket != bucket:
            each.at.fault(show(source), f"an object of the job's own bucket, {bucket}")
