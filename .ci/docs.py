"""What cog puts into the docs: outputs of the real commands, and tables made from the real definitions."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from provisioner import api as library
from provisioner import errors, units
from provisioner.cli import app, options
from provisioner.job import keys
from provisioner.jobs.collect import Collected
from provisioner.jobs.index import StoreLocation
from provisioner.jobs.rendering import Rendering
from provisioner.jobs.status import TaskReport, TaskStatus
from provisioner.links.link import Link
from provisioner.providers import registry

BIN = Path(sys.executable).parent
WIDTH = 100  # characters of a signature in one line
NEWLINE = "\n"
PROVISION = typer.main.get_group(app.app)
ELSE = {"string": "text", "boolean": "true or false", "object": "names and values"}


def show(command: str) -> str:
    """Run one of our commands and return it with its output, as a session in Markdown."""
    program, *arguments = command.split()
    done = subprocess.run([BIN / program, *arguments], capture_output=True, text=True, check=True)
    if not done.stdout.strip():
        raise SystemExit(f"{command} printed nothing on standard output")
    lines = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    return f"```console\n$ {command}\n{lines}\n```"


def file(name: str) -> str:
    """Return a file of the repository as a fenced block in Markdown."""
    return f"```{Path(name).suffix[1:]}\n{Path(name).read_text().strip()}\n```"


def commands() -> str:
    """Return what each command of `provision` is for, as a table."""
    rows = ["| `provision` | |", "| --- | --- |"]
    for path, command in _commands(PROVISION):
        if not isinstance(command, TyperGroup):
            rows.append(f"| `{path}` | {_sentence(command.help)} |")
    return "\n".join(rows)


def every_help() -> str:
    """Return the --help of every command of `provision`."""
    paths = [path for path, _ in _commands(PROVISION)]
    return "\n\n".join(show(f"provision {path} --help") for path in paths)


def json_kinds() -> str:
    """Return what --json makes of each command's standard output, as a table."""
    kinds: dict[str, list[str]] = {options.DOCUMENT_HELP: [], options.EVENTS_HELP: []}
    for path, command in _commands(PROVISION):
        for option in command.params:
            if "--json" in option.opts:
                kinds[str(option.help)].append(f"`{path}`")
    rows = ["| with `--json` | commands |", "| --- | --- |"]
    rows.append(f"| one document | {', '.join(kinds[options.DOCUMENT_HELP])}; `launch --dry-run` |")
    rows.append(f"| a line for each event | {', '.join(kinds[options.EVENTS_HELP])} |")
    return "\n".join(rows)


def _commands(group: TyperGroup, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield above + name, command
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{above}{name} ")


def api() -> str:
    """Return the library's page: functions, Job, what these return, and errors, by the docstrings that they have."""
    about = inspect.cleandoc(library.__doc__ or "").replace(">>> import", "```pycon\n>>> import", 1)
    parts = [about.replace("\n\nDurations", "\n```\n\nDurations", 1)]
    parts.append(f"## Functions\n\n`JobSource` is `{library.JobSource}`.")
    parts += [
        _documented(name, member)
        for name, member in vars(library).items()
        if name in library.__all__ and inspect.isfunction(member)
    ]
    parts.append(f"## Job\n\n{inspect.cleandoc(library.Job.__doc__ or '')}")
    parts += [
        _documented(f"Job.{name}", member) for name, member in vars(library.Job).items() if not name.startswith("_")
    ]
    parts.append("## What they return")
    values = (TaskStatus, TaskReport, Collected, Link, Rendering, StoreLocation, library.Event)
    parts += [_value(kind) for kind in values]
    return "\n\n".join([*parts, "## Errors", _errors()])


def _documented(name: str, member: Callable[..., object] | property) -> str:
    """Return a function, a method or a property: its name as a heading, its signature as code, its docstring."""
    doc = inspect.cleandoc(member.__doc__ or "")
    if isinstance(member, property):
        return f"### {name}\n\n{doc}"
    signature = inspect.signature(member)
    given: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        default = "" if each.default is each.empty else f" = {each.default!r}"
        given += [f"{each.name}: {each.annotation}{default}"] if each.name != "self" else []
    line = f"{name}({', '.join(given)}) -> {signature.return_annotation}"
    if len(line) > WIDTH:
        line = f"{name}(\n    {f',{NEWLINE}    '.join(given)},\n) -> {signature.return_annotation}"
    return f"### {name}\n\n```python\n{line}\n```\n\n{doc}"


def _value(kind: type) -> str:
    """Return a class of values: its docstring, its fields, and what can be asked of it."""
    rows = [f"{each.name}: {each.type}" for each in dataclasses.fields(kind)]
    asked = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
    more = [
        f"- `{name}`: {_sentence(each.__doc__)}"
        for name, each in asked.items()
        if isinstance(each, property) and not name.startswith("_")
    ]
    text = f"### {kind.__name__}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n\n```python\n{NEWLINE.join(rows)}\n```"
    return "\n\n".join([text, *["\n".join(more)] * bool(more)])


def _errors() -> str:
    """Return the library's errors as a table, by their exit codes."""
    found = [each for name, each in vars(errors).items() if name in library.__all__]
    rows = [f"| `{each.__name__}` | {each.exit_code} | {_sentence(each.__doc__)} |" for each in found]
    return "\n".join(["| error | `exit_code` | meaning |", "| --- | --- | --- |", *rows])


def exit_codes() -> str:
    """Return the exit codes as a table, from the errors' own docstrings."""
    rows = ["| code | meaning |", "| --- | --- |", "| 0 | All is well. |"]
    rows += [f"| {error.exit_code} | {_sentence(error.__doc__)} |" for error in errors.FreepostError.__subclasses__()]
    return "\n".join(rows)


def job_keys() -> str:
    """Return the keys of job.yaml as a table, from the schema that the parser applies."""
    rows = ["| key | what it is | what it may hold |", "| --- | --- | --- |"]
    for name, schema in _with_options(_keys(keys.JOB)):
        doc = _plain(" ".join(str(schema.get("description", "")).split()))
        default = schema.get("default")
        if default not in (None, [], {}) and not isinstance(default, bool):
            doc += f" Default: `{units.show_size(default) if name == 'max_bytes' else default}`."
        rows.append(f"| `{name}` | {doc} | {_allowed(schema)} |")
    return "\n".join(rows)


def _with_options(found: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Put the options that the built-in providers have under `vm` after the keys that every provider has there."""
    below = False
    for name, schema in found:
        if below and not name.startswith("vm."):
            for provider in registry.BUILT_IN:
                for option, its in _keys(registry.provider_class(provider).option_schema, "vm."):
                    said = f"`{provider}`: {its.get('description', '')}"
                    yield option, {**its, "description": said}
        below = name.startswith("vm.")
        yield name, schema


def _keys(schemas: Mapping[str, Mapping[str, Any]], above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, schema in schemas.items():
        inner = schema.get("properties") or _mapping(schema).get("properties", {})
        if not schema.get("properties"):
            yield above + name + ("[]" if schema.get("type") == "array" else ""), schema
        yield from _keys(inner, f"{above}{name}{'[]' if schema.get('type') == 'array' else ''}.")


def _mapping(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the long form of a key that has a short one too."""
    choices = schema.get("anyOf") or schema.get("items", {}).get("anyOf") or ()
    return next((choice for choice in choices if choice.get("type") == "object"), {})


def _allowed(schema: Mapping[str, Any]) -> str:
    words = schema.get("x-allowed") or schema.get("items", {}).get("x-allowed")
    if not words and "enum" in schema:
        words = " or ".join(f"`{value}`" for value in schema["enum"])
    if not words and "minimum" in schema:
        words = f"{schema['minimum']} to {schema['maximum']}"
    text = str(words or ELSE[schema["type"]])
    for long, short in (
        ("whole seconds or a duration such as 90s, 10m, 1h30m or 2d; ", "seconds, `90s`, `1h30m`; "),
        ("whole bytes or a size such as 10MB, 64MiB or 5GiB; ", "bytes, `10MB`, `64MiB`; "),
    ):
        text = text.replace(long, short)
    return _plain(text)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, in a table."""
    return text.replace("|", r"\|").replace("*", r"\*")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".") + "."
