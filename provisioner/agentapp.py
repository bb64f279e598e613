"""Packs the agent into the zip app that every VM gets: stored, reproducible, and as small as it can be made.

Every byte of it travels in user-data, which EC2 limits to 16 KB: so the VM's copy has no comments, no docstrings, and
short names for local variables (python-minifier). Functions, classes, attributes and messages keep their names, so it
can still be read, and a traceback names the function.
"""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache

import python_minifier

from provisioner.resources import agent_sources

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
MAIN = "from agent.command import main\nraise SystemExit(main())\n"
ALWAYS = ("__init__", "command", "files", "grant", "journal", "post", "push", "task")
# What else rides along, and when.
FOR_BUNDLES = ("bundle",)
FOR_INPUTS = ("pull",)
FOR_SCRIPTS = ("bundle", "cli", "stream")  # jobs that call `agent` themselves


@lru_cache(maxsize=8)
def agent_zip(extra: frozenset[str] = frozenset()) -> bytes:
    """Return the zip app with the modules that every VM needs and those of `extra`.

    The same bytes for the same sources, whatever Python packs it. Entries are stored, not deflated: one compression
    around the whole does better than one per file.
    """
    sources = agent_sources()
    names = {f"agent/{name}.py": sources[f"agent/{name}.py"].decode() for name in (*ALWAYS, *extra)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, source in sorted({**names, "__main__.py": MAIN}.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix; otherwise it says where it was packed
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, minify(source))
    return buffer.getvalue()


def minify(source: str) -> str:
    """Return Python source that does the same in fewer bytes."""
    text: str = python_minifier.minify(
        source,
        remove_literal_statements=True,
        rename_locals=True,
        rename_globals=False,
        hoist_literals=False,
        preserve_locals=["__class__"],
    )
    return text
