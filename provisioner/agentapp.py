"""Packs the agent into the archive that every VM gets: reproducible, and as small as it can be made.

Every byte of it travels in user-data, which EC2 limits to 16 KB: so the VM's copy has no comments, no docstrings, and
short names for local variables (python-minifier). Functions, classes, attributes and messages keep their names, so it
can still be read, and a traceback names the function.
"""

from __future__ import annotations

import ast
import io
import lzma
import tarfile
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import python_minifier

from provisioner.resources import agent_sources

MAIN = "from agent.command import main\nraise SystemExit(main())\n"
# A member of a group first finds out which one it is.
BEFORE = "import sys\nif sys.argv[1:] == ['run']:\n    from agent.{0} import {1}\n    {1}()\n"
FIRST = {"group": BEFORE.format("group", "join"), "apart": BEFORE.format("apart", "fetch_grant")}
ALWAYS = ("__init__", "command", "files", "grant", "journal", "post", "push", "task")
# What else rides along, and when.
FOR_BUNDLES = ("bundle",)
FOR_GROUPS = ("group",)
FOR_INPUTS = ("pull",)
FOR_PUTS = ("slots",)  # stores that take no forms
FOR_APART = ("apart",)  # grants that lie in the bucket
FOR_SCRIPTS = ("bundle", "cli", "etag", "hurry", "proxy", "stream")  # jobs that call `agent` themselves


@lru_cache(maxsize=8)
def agent_tar(extra: frozenset[str] = frozenset()) -> bytes:
    """Return a tar of the modules that every VM needs and those of `extra`, and of ``__main__.py``, which starts them.

    The same bytes for the same sources, whatever Python packs it.
    """
    sources = agent_sources()
    chosen = {f"agent/{name}.py": sources[f"agent/{name}.py"].decode() for name in (*ALWAYS, *extra)}
    main = "".join(line for name, line in FIRST.items() if name in extra) + MAIN
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, source in sorted(shake({**chosen, "__main__.py": main}).items()):
            data = minify(source).encode()
            entry = tarfile.TarInfo(name)  # of nobody, of 1970
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def packed(extra: frozenset[str] = frozenset()) -> bytes:
    """Return the tar compressed with LZMA, which the launcher in the VM undoes: 5 % less than gzip's best."""
    # No dictionary is larger than the app, and Python source is text: lc 3 with no position bits does best.
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 16, "lc": 3, "pb": 0}]
    return lzma.compress(agent_tar(extra), format=lzma.FORMAT_ALONE, filters=filters)


def shake(sources: Mapping[str, str]) -> dict[str, str]:
    """Drop every top-level function that nothing else in `sources` names: what only the operator's side calls."""
    kept = dict(sources)
    while True:
        named: Counter[str] = Counter()
        functions = []
        for name, source in kept.items():
            tree = ast.parse(source)
            named.update(_names(tree))
            functions += [(name, node) for node in tree.body if isinstance(node, ast.FunctionDef)]
        unused = [
            (name, node)
            for name, node in functions
            if named[node.name] == _names(node)[node.name] and node.name != "main"
        ]
        if not unused:
            return kept
        name, node = unused[0]
        lines = kept[name].splitlines(keepends=True)
        del lines[node.lineno - 1 : node.end_lineno]
        kept[name] = "".join(lines)


def _names(tree: ast.AST) -> Counter[str]:
    """Count every identifier that a tree uses."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
    return found


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
