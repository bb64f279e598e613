"""The kinds of keys that job.yaml is made of, each a function that makes the key's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from provisioner import units
from provisioner.job.problems import Location, show
from provisioner.job.validate import Schema, read
from provisioner.s3url import ENDPOINT

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"  # of names that only the cloud can judge


def text(doc: str, allowed: str, pattern: str = "", **more: object) -> dict[str, Any]:
    """A key that holds text; `allowed` says in words what the pattern says."""
    return {
        "type": "string",
        **({"description": doc} if doc else {}),
        "x-allowed": allowed,
        **({"pattern": pattern} if pattern else {}),
        "minLength": 1,
        **more,
    }


def region(doc: str) -> dict[str, Any]:
    """A key that holds the name of a region."""
    return text(doc, "a region such as eu-central-1", "^[a-z0-9-]{1,40}$")


def endpoint_url(doc: str, example: str = "http://127.0.0.1:9000") -> dict[str, Any]:
    """A key that holds where a service is, which isn't AWS's."""
    return text(doc, f"a URL without user or query, such as {example}", ENDPOINT, maxLength=300)


def flag(doc: str) -> dict[str, Any]:
    """A key that is off unless it says true."""
    return {"type": "boolean", "description": doc, "default": False}


def choice(doc: str, *choices: str, default: str) -> dict[str, Any]:
    """A key that holds one of a few words."""
    return {"enum": list(choices), "type": "string", "description": doc, "default": default}


class _Unit(NamedTuple):
    """Something measured: from the document's value to a number, back to text, and how it's written."""

    read: Callable[[float | str], int]
    show: Callable[[int], str]
    pattern: str
    words: str


_TIME = _Unit(
    units.seconds, units.show_seconds, units.DURATION, "whole seconds or a duration such as 90s, 10m, 1h30m or 2d"
)
_BYTES = _Unit(units.size, units.show_size, units.SIZE, "whole bytes or a size such as 10MB, 64MiB or 5GiB")


def duration(doc: str, least: int, most: int, **more: object) -> dict[str, Any]:
    """A key that holds a time; whole seconds in the JobSpec."""
    return {**_measured(_TIME, least, most), "description": doc, **more}


def size(doc: str, least: int, most: int, **more: object) -> dict[str, Any]:
    """A key that holds a number of bytes."""
    return {**_measured(_BYTES, least, most), "description": doc, **more}


def _measured(unit: _Unit, least: int, most: int) -> dict[str, Any]:
    words = f"{unit.words}; {unit.show(least)} to {unit.show(most)}"

    def within(value: float | str, at: Location) -> None:
        if not least <= unit.read(value) <= most:
            at.fault(show(value, at.raw), words)

    return {
        "anyOf": [
            {"type": "integer", "minimum": least, "maximum": most},
            {"type": "string", "pattern": unit.pattern, "minLength": 1, "x-check": within},
        ],
        "x-allowed": words,
        "x-read": unit.read,
    }


def mapping(doc: str, keys: Mapping[str, Schema], *required: str, **more: object) -> dict[str, Any]:
    """A key that holds keys."""
    made = {"type": "object", "description": doc, "properties": dict(keys), "additionalProperties": False, **more}
    return {**made, "required": list(required)} if required else made


def either(plain: Schema, full: Schema, key: str, **more: object) -> dict[str, Any]:
    """A mapping that may be written as the value of its main key alone."""
    said = f"{plain['x-allowed']}, or a mapping with {', '.join(full['properties'])}"
    short = {**plain, "x-read": lambda value: read({key: value}, full)}
    return {"anyOf": [short, full], "description": full["description"], "x-allowed": said, **more}


def items(doc: str, item: Schema, **more: object) -> dict[str, Any]:
    """A key that holds a list."""
    return {"type": "array", **({"description": doc} if doc else {}), "items": item, "maxItems": 1000, **more}
