"""Kinds of keys that several providers have under ``vm``, besides those of every key (`provisioner.job.fields`)."""

from __future__ import annotations

from typing import Any

from provisioner.job.fields import items
from provisioner.job.validate import Schema


def one_or_more(doc: str, item: Schema, **more: object) -> dict[str, Any]:
    """Return the schema of one thing, or of a list of them in the order of preference; a tuple in the JobSpec."""
    several = items("", item, minItems=1)
    one = {**item, "x-read": lambda value: (value,)}
    words = f"{item['x-allowed']}, or a list of them"
    return {"anyOf": [one, several], "description": doc, "x-allowed": words, **more}
