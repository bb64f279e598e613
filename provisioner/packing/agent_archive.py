"""Packs the agent into the archives that a VM gets: reproducible, and as small as they can be made.

Every byte counts, since EC2 limits user-data to 16 KB. So the agent travels in two stages. A core is always in the
user-data: with it a VM boots, reports, runs its job and uploads its outputs. Everything else that a job can call comes
along where it has room, and otherwise from the bucket, as the archive that `rest` gives (`agent/boot.py`).

`provisioner.packing.rename` and `minify` make all modules small at once, because that takes a second: when a wheel is
built (hatch_build.py), and otherwise once, kept by the hash of the sources. What is chosen from them is kept likewise.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from agent.layout import ARCHIVE_LAST, ARCHIVE_MARK
from provisioner import atomic, resources
from provisioner.packing.sources import CORE, needed_sources
from provisioner.paths import cache_dir

WRITTEN_OUT = ("layout",)  # only constants, whose values `minify` writes where they are used
# What must be in the user-data besides the core, because without it a VM of this kind could not report, run or upload.
FOR_GROUPS = ("imds", "launch_group", "remote_grant")
FOR_REMOTE_GRANTS = ("remote_grant",)  # VMs whose grant lies in the bucket
FOR_PUTS = ("md5_check", "put_upload")  # stores that take no forms
FOR_INPUTS = ("pull",)
FOR_TLS = ("tls",)
# What a job may call or ask for, where the whole has no room and the bucket can't be used (`render` without --stage).
FOR_BUNDLES = ("bundle",)
FOR_RENEWAL = ("companion", "compose", "renew")
FOR_SPOT = ("companion", "compose", "imds", "spot")
FOR_USERS = (
    "commands",
    "companion",
    "compose",
    "handoff",
    "options",
    "push_client",
    "push_server",
    "push_stream",
    "report",
    "socket_protocol",
)  # those that run as a user, who can't read the grant
FOR_ROOT = ("commands", "compose", "options", "push_command", "push_stream", "report")  # jobs that can read it

_PACKERS = ("agent_archive.py", "minify.py", "rename.py", "short_names.json", "sources.py")


def modules() -> tuple[str, ...]:
    """The name of every module of the agent, without its folder and ending."""
    names = (name[len("agent/") : -len(".py")] for name in resources.agent_sources())
    return tuple(name for name in names if name not in ("__main__", *WRITTEN_OUT))


def whole() -> frozenset[str]:
    """Every module that isn't in the core: all that a job can call."""
    return frozenset(modules()) - frozenset(CORE)


def remaining() -> tuple[str, ...]:
    """The modules of the archive in the bucket: all but the core, and but those that only help a VM to start."""
    names = whole() - frozenset(("put_upload", *FOR_REMOTE_GRANTS, "launch_group"))
    return tuple(sorted(names, key=lambda name: (name == ARCHIVE_LAST, name)))


@lru_cache(maxsize=64)
def packed(parts: frozenset[str] = frozenset(), *, more: bool = False) -> bytes:
    """Return the archive of the user-data: the core and `parts`, compressed with bzip2; the launcher unpacks it.

    `more` says that the VM fetches the rest from the bucket, so that what only the rest uses of the core is in it, too.
    The same sources give the same bytes, whatever Python packs them. bzip2 is the best of what every Python has: it
    made 11,011 bytes of 28.7 KB, where LZMA at its best settings made 11,368 and deflate 11,947.
    """
    return _cached(_name(parts, more=more), lambda: _core(parts, more=more))


@lru_cache(maxsize=1)
def rest() -> bytes:
    """Return the archive of the bucket: modules without a folder, for where the core was unpacked."""
    return _cached("rest", lambda: pack({name: minified()[name] for name in remaining()}))


@lru_cache(maxsize=1)
def minified() -> Mapping[str, str]:
    """Every module of the agent, made small, by name; and ``__main__``."""

    def make() -> bytes:
        from provisioner.packing.minify import shrink
        from provisioner.packing.rename import rename, short_names

        small = shrink(rename(needed_sources(), short_names()))
        return json.dumps({Path(name).stem: text for name, text in small.items()}).encode()

    found: dict[str, str] = json.loads(_cached("modules", make))
    return found


def common() -> Iterator[tuple[frozenset[str], bool]]:
    """Yield the arguments of `packed` for what launches commonly need, so that a wheel can hold these archives."""
    kinds: tuple[tuple[str, ...], ...] = ((), FOR_GROUPS, FOR_PUTS)
    for chosen in itertools.product(kinds, ((), FOR_INPUTS), ((), FOR_TLS), ((), FOR_REMOTE_GRANTS)):
        if chosen[0] != FOR_GROUPS or chosen[3]:  # those are alike with it and without
            yield frozenset(itertools.chain(*chosen)), True
    yield whole(), False


def build(folder: Path) -> None:
    """Write what every launch needs into `folder`, for a wheel."""
    folder.mkdir(exist_ok=True)
    files = {_name(parts, more=more): packed(parts, more=more) for parts, more in common()}
    files |= {"rest": rest(), "modules": json.dumps(dict(minified())).encode(), "sources": _digest().encode()}
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _name(parts: frozenset[str], *, more: bool) -> str:
    return "+".join(("whole",) if parts == whole() else ("core", *["rest"] * more, *sorted(parts)))


def _core(parts: frozenset[str], *, more: bool) -> bytes:
    """Pack the core and `parts`, without the functions that nothing names which this VM will ever have."""
    from provisioner.packing.minify import shake

    names = (*CORE, *sorted(parts))
    known = {*names, *(remaining() if more else ()), "__main__"}
    small = shake({name: text for name, text in minified().items() if name in known})
    return pack({**{f"agent/{name}": small[name] for name in names}, "__main__": small["__main__"]})


def pack(files: Mapping[str, str]) -> bytes:
    """Pack Python files: form feeds separate them, and the first line of each is its name, without ``.py``.

    `bzcat` shows them. The headers of a tar took 17 bytes more for each file, compressed.
    """
    parts = [f"{name}\n{text}".encode() for name, text in files.items()]
    if any(ARCHIVE_MARK in each for each in parts):
        message = "a source holds a form feed, which separates the files of an archive"
        raise ValueError(message)
    return bz2.compress(ARCHIVE_MARK.join(parts))


@lru_cache(maxsize=1)
def _digest() -> str:
    """Return a hash of everything that the archives depend on."""
    here = Path(__file__)
    made_from = {**resources.agent_sources(), **{name: here.with_name(name).read_bytes() for name in _PACKERS}}
    return hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:32]


def _cached(name: str, make: Callable[[], bytes]) -> bytes:
    """Return what the wheel or the user's cache has under this name; otherwise make it and put it into the cache."""
    digest = _digest()
    if resources.built_agent("sources") == digest.encode():
        found = resources.built_agent(name)
        if found is not None:
            return found
    path = cache_dir() / "agent" / digest / name
    with contextlib.suppress(OSError):
        return path.read_bytes()
    data = make()
    with contextlib.suppress(OSError):  # without a cache it is made each time
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic.write(path, data)
    return data
