"""``--set run.timeout=2h``: one key of the document, replaced or added before it is checked.

The value is YAML. Under ``run.env`` a number, true or false is taken as the text it is, since a shell eats quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from provisioner.job import yaml_positions
from provisioner.job.problems import Faults, shorten, show
from provisioner.job.yaml_positions import Mark, MarkedDict, MarkedList

_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[([0-9]{1,6})\]")
_FORM = "KEY=VALUE, the key such as run.timeout or outputs[0].glob"
_MAIN = {"store": "url", "outputs": "glob", "inputs": "source", "files": "source"}  # what a mapping's short form means


def apply(document: Mapping[str, Any], settings: Sequence[str], faults: Faults) -> Mapping[str, Any]:
    """Return the document with each ``key=value`` in it. Nothing of the given document changes."""
    made: Any = document
    for setting in settings:
        key, equals, text = setting.partition("=")
        steps = _steps(key)
        if not equals or not steps:
            faults.add("--set", shorten(key), "no key and value" if equals else "no =", _FORM)
            continue
        before = len(faults.found)
        value = (
            yaml_positions.load(text, where=f"--set {shorten(key)}", complain=faults.add, lines=False) if text else ""
        )
        if steps[:2] == ["run", "env"] and not isinstance(value, (str, Mapping, list)):
            value = text.strip()
        if len(faults.found) == before:
            change = _Change(value, Mark("--set", text.strip()), shorten(key), faults)
            made = change.put(made, steps)
    return cast("Mapping[str, Any]", made)


def _steps(key: str) -> list[str | int]:
    """Take ``outputs[0].glob`` apart; empty when it can't be."""
    found: list[str | int] = []
    end = 0
    for match in _STEP.finditer(key):
        if match.start() != end:
            return []
        found.append(match[1] if match[1] is not None else int(match[2]))
        end = match.end()
    return found if end == len(key) else []


class _Change(NamedTuple):
    """One value, on its way to its place."""

    value: object
    mark: Mark
    key: str
    faults: Faults

    def put(self, container: object, steps: Sequence[str | int], main: str = "") -> object:
        """Return a copy of the container with the value in its place; plain text above it becomes {main: text}."""
        step, rest = steps[0], steps[1:]
        if isinstance(container, str) and main and isinstance(step, str):
            container = {main: container}
        made: MarkedDict | MarkedList
        if isinstance(step, str) and (container is None or isinstance(container, Mapping)):
            made = MarkedDict(container or {})
            inner, below = made.get(step), _MAIN.get(step, "")
        elif isinstance(step, int) and isinstance(container, (list, type(None))) and step <= len(container or ()):
            made = MarkedList([*(container or ()), None] if step == len(container or ()) else container or ())
            inner, below = made[step], main
        else:
            allowed = (
                f"an index up to {len(container)}" if isinstance(container, list) else "a mapping or a list above it"
            )
            self.faults.add(self.mark.origin, self.key, f"{show(container)} above `{step}`", allowed)
            return container
        made.marks = {**getattr(container, "marks", {}), step: self.mark}
        made[step] = self.put(inner, rest, below) if rest else self.value  # type: ignore[index]
        return made
