"""The files that travel with the package: templates, and the agent's own source.

A checkout has ``templates/`` beside the package, a wheel inside it (pyproject.toml puts it there).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner.errors import MissingDependency

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).resolve().parent


def templates() -> Path:
    """Return the folder of the Jinja templates. Raise MissingDependency when the installation has none."""
    for folder in (_HERE / "templates", _HERE.parent / "templates"):
        if folder.is_dir():
            return folder
    raise MissingDependency(
        f"the templates are missing: {_HERE / 'templates'} is not a folder", hint="install freepost again"
    )


def make_environment(filters: Mapping[str, Callable[..., object]]) -> jinja2.Environment:
    """Return a Jinja environment of our templates: undefined names are errors, and pages (``.html.j2``) are escaped."""
    import jinja2  # not needed to pack the agent, which a build does without it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates()),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment


def agent_sources() -> dict[str, bytes]:
    """Return the agent's Python files by their names in the archive (``agent/grant.py``), sorted by name.

    The package is found without importing it, so that nothing of the agent runs in the operator's process.
    """
    spec = importlib.util.find_spec("agent")
    if spec is None or spec.origin is None:
        raise MissingDependency("the package `agent` is missing", hint="install freepost again")
    root = Path(spec.origin).resolve().parent
    return {f"agent/{path.relative_to(root).as_posix()}": path.read_bytes() for path in sorted(root.rglob("*.py"))}


def built_agent(name: str) -> bytes | None:
    """Return one of the archives that were made when the wheel was built; None in a checkout, which has none."""
    try:
        return (_HERE / "agent" / name).read_bytes()
    except FileNotFoundError:
        return None
