"""Packs the agent into the zip app that every VM gets: stored, reproducible, without comments and docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
import zipfile
from functools import lru_cache

from provisioner.resources import agent_sources

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
MAIN = b"from agent.__main__ import main\nraise SystemExit(main())\n"


@lru_cache(maxsize=1)
def agent_zip() -> bytes:
    """Return the zip app: the same bytes for the same sources, whatever Python packs it.

    Entries are stored, not deflated: one gzip around the whole compresses better than one per file.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, source in sorted({**agent_sources(), "__main__.py": MAIN}.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix; otherwise it says where it was packed
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, strip(source.decode()))
    return buffer.getvalue()


def strip(source: str) -> str:
    """Return Python source without comments, docstrings and trailing space, every statement on the line it was on.

    So the VM's tracebacks name the repository's line numbers, and prose costs no user-data.
    """
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() + "\n"
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            doc = node.body[0]
            indent = lines[doc.lineno - 1][: doc.col_offset]
            lines[doc.lineno - 1 : doc.end_lineno] = ["\n"] * ((doc.end_lineno or doc.lineno) - doc.lineno + 1)
            if len(node.body) == 1:  # a docstring alone is a body
                lines[doc.lineno - 1] = f"{indent}pass\n"
    return "".join(lines)
