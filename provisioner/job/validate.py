"""Checks a document against a JSON Schema and says everything that is wrong with it, in sentences.

The subset: type, enum, pattern, minLength, maxLength, minimum, maximum, items, minItems, maxItems, uniqueItems,
properties, required, dependentRequired, additionalProperties, propertyNames, anyOf. A schema of ours may also hold

- ``x-allowed``: what is allowed, in words, where the keywords alone would not tell a person,
- ``x-check``: a function ``(value, Location) -> None`` for what a schema can't express; it runs when the rest is
  right,
- ``x-read``: a function from the value in the document to the value in the JobSpec,
- ``x-quiet``: the value may be a secret, never quote it,
- ``x-one-of``: keys of which a mapping has exactly one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from provisioner.job.problems import Faults, Location, nearest, one_of, shorten, show

Schema = Mapping[str, Any]
Document: TypeAlias = Any  # what YAML or JSON may hold

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list, tuple),
    "object": (Mapping,),
}
_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "a mapping",
}


def allowed(schema: Schema) -> str:
    """Say what a schema allows, in words."""
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    if "enum" in schema:
        return one_of(schema["enum"])
    if "anyOf" in schema:
        return ", or ".join(dict.fromkeys(allowed(each) for each in schema["anyOf"]))
    words = " or ".join(_WORDS[each] for each in types(schema)) or "anything"
    if types(schema) == ("object",) and "properties" in schema:
        words += f" with {', '.join(schema['properties'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        words += f" from {low} to {high}"
    elif low is not None or high is not None:
        words += f" of at least {low}" if low is not None else f" of at most {high}"
    if "maxLength" in schema:
        words += f" of at most {schema['maxLength']} characters"
    if "pattern" in schema:
        words += f" that matches {schema['pattern']}"
    return words


def types(schema: Schema) -> Sequence[str]:
    """Return the names of the types that a schema admits; empty when it doesn't say."""
    kinds: str | Sequence[str] = schema.get("type", ())
    return (kinds,) if isinstance(kinds, str) else kinds


def is_a(value: object, kinds: Sequence[str]) -> bool:
    """Tell whether a value is of one of these JSON types: true is no number, 1.0 is an integer."""
    if isinstance(value, bool):
        return "boolean" in kinds
    if isinstance(value, float) and value.is_integer() and "integer" in kinds:
        return True
    return any(isinstance(value, _TYPES[kind]) for kind in kinds)


def check(value: object, schema: Schema, at: Location) -> bool:
    """Note every fault of `value`, and return whether there was none."""
    before = len(at.faults.found)
    if "anyOf" in schema:
        _check_branches(value, schema, at)
    elif types(schema) and not is_a(value, types(schema)):
        _wrong_type(value, schema, at)
    elif "enum" in schema and not any(value == each and _is_bool(value) == _is_bool(each) for each in schema["enum"]):
        at.fault(_quoted(value, schema, at), allowed(schema) + nearest(value, schema["enum"]))
    elif isinstance(value, str):
        _check_text(value, schema, at)
    elif isinstance(value, float) and not math.isfinite(value):
        at.fault(show(value, at.raw), f"{allowed(schema)}: a finite number, or text in quotes")
    elif isinstance(value, (int, float)):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            at.fault(_quoted(value, schema, at), allowed(schema))
    elif isinstance(value, (list, tuple)):
        _check_list(value, schema, at)
    elif isinstance(value, Mapping):
        _check_mapping(value, schema, at)
    if "x-check" in schema and len(at.faults.found) == before:
        schema["x-check"](value, at)
    return len(at.faults.found) == before


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)  # True == 1 in Python, not in JSON


def _quoted(value: object, schema: Schema, at: Location) -> str:
    return "a value that doesn't fit" if schema.get("x-quiet") and isinstance(value, str) else show(value, at.raw)


def _wrong_type(value: object, schema: Schema, at: Location) -> None:
    words = allowed(schema)
    if "string" in types(schema) and isinstance(value, (bool, int, float)):
        words += f' (quote it: "{shorten(at.raw or str(value).lower())}")'
    at.fault(show(value, at.raw), words)


def _check_branches(value: object, schema: Schema, at: Location) -> None:
    """Check against the one branch that admits the type, so that its faults are told, not just that none fitted."""
    branches = [each for each in schema["anyOf"] if not types(each) or is_a(value, types(each))]
    if not branches:
        kinds = [kind for each in schema["anyOf"] for kind in types(each)]
        _wrong_type(value, {"type": kinds, "x-allowed": allowed(schema)}, at)
    elif len(branches) == 1:
        words = {"x-allowed": schema["x-allowed"]} if "x-allowed" in schema else {}
        check(value, {**branches[0], **words}, at)
    elif not any(check(value, each, Location(Faults("", at.faults.base))) for each in branches):
        at.fault(_quoted(value, schema, at), allowed(schema))


def _check_text(value: str, schema: Schema, at: Location) -> None:
    pattern = schema.get("pattern", "")
    # In Python, but not in JSON Schema, `$` also matches before a newline at the end.
    fits = re.search(pattern, value) and not (pattern.endswith("$") and value.endswith("\n"))
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)) or not fits:
        at.fault(_quoted(value, schema, at), allowed(schema))
    elif not _is_unicode(value):
        at.fault("half of a surrogate pair", "text that is valid Unicode")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _check_list(value: Sequence[object], schema: Schema, at: Location) -> None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not low <= len(value) <= high:
        bound = f"at least {low}" if len(value) < low else f"at most {high}"
        at.fault(show(value), f"{allowed(schema)}, {bound} items" if "x-allowed" not in schema else allowed(schema))
        return
    for index, item in enumerate(value):
        check(item, schema.get("items", {}), at.child(value, index))
        if schema.get("uniqueItems") and item in value[:index]:
            at.child(value, index).fault(f"{show(item)} a second time", "each item once")


def _check_mapping(value: Mapping[Any, Any], schema: Schema, at: Location) -> None:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", True)
    one_of_keys = schema.get("x-one-of", ())
    if one_of_keys and len(present := [key for key in one_of_keys if key in value]) != 1:
        at.fault(
            f"both {' and '.join(present)}" if present else "neither", f"exactly one of {' and '.join(one_of_keys)}"
        )
    needed = [each for key, keys in schema.get("dependentRequired", {}).items() if key in value for each in keys]
    for key in (*schema.get("required", ()), *needed):
        if key not in value:
            at.fault(f"no key `{key}`", f"{key}: {allowed(known.get(key, {}))}")
    for key, item in value.items():
        if not isinstance(key, str):
            at.fault(f"the key {show(key)}", "text as a key")
        elif key in known:
            check(item, known[key], at.child(value, key))
        elif others is False:
            names = ", ".join(known) or "no keys"
            at.child(value, key).fault("an unknown key", names + nearest(key, list(known)))
        elif check(key, schema.get("propertyNames", {}), at.child(value, key)):
            check(item, others if isinstance(others, Mapping) else {}, at.child(value, key))


def read(value: Document, schema: Schema) -> Document:
    """Turn a value that `check` passed into what a spec holds: defaults filled in, units read, lists as tuples."""
    if "x-read" in schema:
        return schema["x-read"](value)
    if "anyOf" in schema:
        return read(value, next(each for each in schema["anyOf"] if not types(each) or is_a(value, types(each))))
    if isinstance(value, Mapping):
        return {**defaults(schema), **{key: read(item, _of(schema, key)) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return tuple(read(item, schema.get("items", {})) for item in value)
    return int(value) if isinstance(value, float) and types(schema) == ("integer",) else value


def _of(schema: Schema, key: str) -> Schema:
    others = schema.get("additionalProperties", {})
    found: Schema = schema.get("properties", {}).get(key, others if isinstance(others, Mapping) else {})
    return found


def defaults(schema: Schema) -> dict[str, Any]:
    """Return the keys of a mapping's schema that have a default, with it."""
    known = schema.get("properties", {})
    return {key: read(each["default"], each) for key, each in known.items() if "default" in each}


def publish(schema: Document) -> Document:
    """Return the schema as plain JSON Schema, for editors: what is allowed joins the description."""
    if not isinstance(schema, Mapping):
        return [publish(item) for item in schema] if isinstance(schema, (list, tuple)) else schema
    made = {key: publish(item) for key, item in schema.items() if not key.startswith("x-")}
    if "x-one-of" in schema:
        made["oneOf"] = [{"required": [key]} for key in schema["x-one-of"]]
    if "x-allowed" in schema and isinstance(made.get("description"), str):
        made["description"] += f" Allowed: {schema['x-allowed']}."
    return made
