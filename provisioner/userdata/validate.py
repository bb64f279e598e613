"""User-data against cloud-init's own JSON schema, before anything is posted or paid for.

The schema is cloud-init's, never ours. It is looked for, in this order, in an installed cloud-init; beside this module,
where a build puts the copy that it takes from Debian's package (``hatch_build.py``); and in the machine images that
were built here. Where it is in none of them, nothing is validated, and that is said.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from provisioner.errors import BadInput
from provisioner.output import Event, Report
from provisioner.paths import cache_dir

FILE = "cloudinit/config/schemas/schema-cloud-config-v1.json"
BUNDLED = Path(__file__).with_name("cloud-config.schema.json")
SYSTEM = ("usr/lib/python3/dist-packages", "usr/lib/python3*/site-packages")
MAX_RULE = 80  # characters of a rule that a message quotes


@dataclass(frozen=True)
class Schema:
    """cloud-init's schema and where it was found."""

    origin: Path
    rules: dict[str, Any]


def find_schema() -> Schema | None:
    """The schema, or None where there is none. Raise BadInput when the first one found can't be read."""
    path = next((path for path in _places() if path.is_file()), None)
    return _read(path) if path else None


def check(plain: bytes, report: Report, *, quiet: bool = False) -> None:
    """Raise BadInput, with every fault, when cloud-init would not take the document `plain`.

    Report that nothing was validated where there is no schema, unless `quiet`.
    """
    schema = find_schema()
    if schema is None:
        if not quiet:
            text = "note: the user-data was not validated: there is no cloud-init here whose schema could be asked"
            report(Event("unvalidated", f"{text} (apt-get install cloud-init, or: provision image build)", {}))
        return
    found = faults(plain, schema.rules)
    if found:
        raise BadInput(
            f"cloud-init's schema refuses the user-data in {len(found)} places ({schema.origin})",
            hint="nothing was launched; this is Freepost's mistake unless run.user or a file's path is odd",
            faults=found,
        )


def faults(plain: bytes, rules: dict[str, Any]) -> list[str]:
    """Say what is wrong with a document, one line a fault: where, and the rule. What stands there is never quoted."""
    import jsonschema

    if not plain.startswith(b"#cloud-config\n"):
        return ["line 1: is not #cloud-config, so cloud-init would ignore all of it"]
    try:
        document = yaml.safe_load(plain)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return [f"line {mark.line + 1 if mark else 1}: is not YAML"]
    if not isinstance(document, dict):
        return ["the document is not a mapping"]
    known = _keys(rules)
    found = [f"{key!s:.40}: no module of cloud-init reads this key" for key in document if known and key not in known]
    for fault in jsonschema.Draft4Validator(rules).iter_errors(document):
        if fault.validator == "additionalProperties" and not fault.path:
            continue  # said above, by name
        cause = jsonschema.exceptions.best_match([fault]) or fault
        expected = json.dumps(cause.validator_value)
        rule = f"{cause.validator} {expected}" if len(expected) <= MAX_RULE else str(cause.validator)
        found.append(f"{'.'.join(map(str, cause.absolute_path)) or 'the document'}: breaks the rule {rule}")
    return found


def _keys(rules: dict[str, Any]) -> set[str]:
    """Every key that a module of cloud-init reads: older schemas admit any other, which would then do nothing."""
    return {
        key for each in [rules, *rules.get("$defs", {}).values()] if isinstance(each, dict)
        for key in each.get("properties", {})
    }  # fmt: skip


def _places() -> Iterator[Path]:
    spec = importlib.util.find_spec("cloudinit")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location).parent / FILE
    yield from _below(Path("/"))
    yield BUNDLED
    for root in sorted(cache_dir().glob("images/*/root"), reverse=True):
        yield from _below(root)


def _below(root: Path) -> Iterator[Path]:
    for place in SYSTEM:
        yield from sorted(root.glob(f"{place}/{FILE}"))


@lru_cache(maxsize=4)
def _read(path: Path) -> Schema:
    try:
        return Schema(path, json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        message = f"cloud-init's schema can't be read: {path}: {type(error).__name__}"
        raise BadInput(message, hint="install cloud-init again, or remove that file") from None
