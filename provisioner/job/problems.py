"""What is wrong with a document: every fault, each with its place, in sentences that quote no secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provisioner import errors

_SHORT = 60  # characters of a value that a fault quotes
_LONG = 4000  # characters of it that are searched for secrets first


@dataclass
class Faults:
    """Everything that is wrong with one document. `base` is the folder that its file names are relative to."""

    where: str
    base: Path
    found: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def add(self, origin: str, path: str, found: str, allowed: str) -> None:
        """Note one fault: where, the path to the key, what was found, what is allowed."""
        self.paths.append(path)
        self.found.append(": ".join(filter(None, (origin, path, f"found {found}; allowed: {allowed}"))))

    def below(self, path: str) -> bool:
        """Tell whether something at or below this path is wrong."""
        return any(each == path or each.startswith((f"{path}.", f"{path}[")) for each in self.paths)

    def stop(self) -> None:
        """Raise BadInput with all of it, if there is any."""
        if self.found:
            count = "a fault" if len(self.found) == 1 else f"{len(self.found)} faults"
            raise errors.BadInput(f"{self.where} has {count}", hint="correct what is listed", faults=self.found)


@dataclass(frozen=True)
class Location:
    """A place in the document: the path to it, its origin (``job.yaml:12``) and a scalar's text as written."""

    faults: Faults
    path: str = ""
    origin: str = ""
    raw: str = ""

    def child(self, container: object, key: str | int) -> Location:
        """Return the place of one key of a mapping, or one item of a list."""
        mark = getattr(container, "marks", {}).get(key)
        shown = f"[{key}]" if isinstance(key, int) else shorten(key)
        dot = "." if self.path and isinstance(key, str) else ""
        return Location(
            self.faults, f"{self.path}{dot}{shown}", mark.origin if mark else self.origin, mark.raw if mark else ""
        )

    def fault(self, found: str, allowed: str) -> None:
        """Note what is wrong here."""
        self.faults.add(self.origin or self.faults.where, self.path, found, allowed)


def shorten(text: str) -> str:
    """Cut a long text, and anything in a URL that may be a secret, so that a fault can quote it."""
    text = re.sub(r"://[^/@\s]*@", "://…@", text[:_LONG])
    text = re.sub(r"(://[^?\s]*)\?.*", r"\1?…", text, flags=re.DOTALL)
    text = re.sub(r"x-amz-(signature|credential|security-token).*", "…", text, flags=re.DOTALL | re.IGNORECASE)
    text = text.encode(errors="replace").decode()
    text = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[: _SHORT + 1]
    )
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


def show(value: object, raw: str = "") -> str:
    """Say what a value is, in words and on one line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        word = str(value).lower()
        return f"{raw}, which YAML reads as {word}" if raw and raw.lower() != word else word
    if isinstance(value, str):
        length = f" ({len(value)} characters)" if len(value) > _SHORT else ""
        return f"`{shorten(value)}`{length}" if value else "empty text"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, (int, float)):
        return shorten(
            raw or (str(value) if isinstance(value, float) or abs(value) < 10**_SHORT else "a very large number")
        )
    return f"a {type(value).__name__}"


def one_of(choices: Sequence[object]) -> str:
    """List choices in a sentence."""
    names = [show(each).strip("`") for each in choices]
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "nothing"


def nearest(word: object, known: Sequence[object]) -> str:
    """Say which of the known words was probably meant; empty when none is near."""
    words = [each for each in known if isinstance(each, str)]
    near = difflib.get_close_matches(str(word)[:_SHORT], words, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
