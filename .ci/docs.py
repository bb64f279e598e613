"""What cog puts into the docs: outputs of the real commands, and tables made from the real definitions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provisioner import errors, jobschema, units

BIN = Path(sys.executable).parent


def show(command: str) -> str:
    """Run one of our commands and return it with its output, as a session in Markdown."""
    program, *arguments = command.split()
    done = subprocess.run([BIN / program, *arguments], capture_output=True, text=True, check=True)
    lines = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    return f"```console\n$ {command}\n{lines}\n```"


def file(name: str) -> str:
    """Return a file of the repository as a fenced block in Markdown."""
    return f"```{Path(name).suffix[1:]}\n{Path(name).read_text().strip()}\n```"


def exit_codes() -> str:
    """Return the exit codes as a table, from the errors' own docstrings."""
    rows = ["| code | meaning |", "| --- | --- |", "| 0 | All is well. |"]
    for error in errors.FreepostError.__subclasses__():
        rows.append(f"| {error.exit_code} | {(error.__doc__ or '').partition('. ')[0].rstrip('.')}. |")
    return "\n".join([*rows, "| 130 | Interrupted (Ctrl-C). |"])


def job_keys() -> str:
    """Return the keys of job.yaml as a table, from the schema that the parser applies."""
    rows = ["| key | what it is | what it may hold |", "| --- | --- | --- |"]
    for name, schema in _keys(jobschema.JOB):
        doc = " ".join(str(schema.get("description", "")).split())
        default = schema.get("default")
        if default not in (None, [], {}) and not isinstance(default, bool):
            doc += f" `{units.show_size(default) if name == 'max_bytes' else default}` unless it is said."
        rows.append(f"| `{name}` | {doc} | {_allowed(schema)} |")
    return "\n".join(rows)


def _keys(schemas: Mapping[str, Mapping[str, Any]], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, schema in schemas.items():
        inner = schema.get("properties", {})
        if not inner:
            yield above + name, schema
        yield from _keys(inner, f"{above}{name}.")


def _allowed(schema: Mapping[str, Any]) -> str:
    words = schema.get("x-allowed") or schema.get("items", {}).get("x-allowed")
    if not words and "minimum" in schema:
        words = f"{schema['minimum']} to {schema['maximum']}"
    for long, short in (
        ("whole seconds or a duration such as 90s, 10m, 1h30m or 2d; ", "`90s`, `1h30m`; "),
        ("whole bytes or a size such as 10MB, 64MiB or 5GiB; ", "`10MB`, `64MiB`; "),
    ):
        words = str(words or "names and values").replace(long, short)
    return words.replace("|", r"\|")
