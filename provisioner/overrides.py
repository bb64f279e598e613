"""``--set run.timeout=2h``: one key of the document, replaced or added before it is checked.

The value is YAML. Under ``run.env`` a number, true or false is taken as the text it is, since a shell eats quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from provisioner import marked_yaml
from provisioner.marked_yaml import Mark, MarkedDict, MarkedList
from provisioner.schema import Faults, shorten, show

_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[([0-9]{1,6})\]")
_MAIN = {"store": "url", "outputs": "glob", "inputs": "source", "files": "source"}  # what a mapping's short form means


def apply(document: Mapping[str, Any], settings: Sequence[str], faults: Faults) -> Mapping[str, Any]:
    """Return the document with each ``key=value`` in it. Nothing of the given document changes."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        steps = _steps(key)
        if not equals or not steps:
            faults.add(
                "--set", shorten(key), show(setting), "KEY=VALUE with a key such as run.timeout or outputs[0].glob"
            )
            continue
        before = len(faults.found)
        value = (
            marked_yaml.load(text, where=f"--set {shorten(key)}", complain=faults.add, lines=False)
            if text.strip()
            else ""
        )
        if len(faults.found) > before:
            continue
        if steps[:2] == ["run", "env"] and not isinstance(value, (str, Mapping, list)):
            value = text.strip()
        document = _put(document, steps, value, Mark("--set", text.strip()), faults)
    return document


def _steps(key: str) -> list[str | int]:
    """Take ``outputs[0].glob`` apart; empty when it can't be."""
    found, end = [], 0
    for match in _STEP.finditer(key):
        if match.start() != end:
            return []
        found.append(match[1] if match[1] is not None else int(match[2]))
        end = match.end()
    return found if end == len(key) else []


def _put(container: Any, steps: Sequence[str | int], value: Any, mark: Mark, faults: Faults, main: str = "") -> Any:
    """Return a copy of the container with the value in its place; aliases of what is copied keep theirs."""
    step, rest = steps[0], steps[1:]
    if isinstance(container, str) and main and isinstance(step, str):
        container = {main: container}
    if container is None:
        container = {}
    if isinstance(step, int) and isinstance(container, list) and step <= len(container):
        made: Any = MarkedList(container)
        if step == len(container):
            made.append(None)
        below = _MAIN.get(main, main)
    elif isinstance(step, str) and isinstance(container, Mapping):
        made = MarkedDict(container)
        below = _MAIN.get(step, "")
    else:
        faults.add(
            mark.origin,
            shorten(str(step)),
            f"it below {show(container)}",
            "a key of a mapping, or the index of an item",
        )
        return container
    made.marks = {**getattr(container, "marks", {}), step: mark}
    inner = made[step] if isinstance(step, int) else made.get(step)
    made[step] = _put(inner, rest, value, mark, faults, below) if rest else value
    return made
