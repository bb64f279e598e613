"""What people and programs are told, on which stream, and in which form.

Without ``--json`` standard output has the text of a command's result, and events go to standard error. With it standard
output is of one of two kinds, whatever happens:

- EVENTS: lines, each a JSON object whose ``event`` names what happened, an error too (``error``);
- DOCUMENT: one JSON value, the result or, where there is none, the error; events are text on standard error.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from provisioner.errors import BadInput, FreepostError

RED, DIM, PLAIN = "\x1b[31m", "\x1b[2m", "\x1b[0m"
# Names and reasons come from VMs: what would move the cursor of whoever reads them is shown as what it is.
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class Kind(enum.Enum):
    """What a command's standard output is."""

    TEXT = "text"
    EVENTS = "events"
    DOCUMENT = "document"


@dataclass(frozen=True)
class Event:
    """Something that happened. `text` is for people, `data` for programs; neither holds a secret."""

    name: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


class Report(Protocol):
    """Takes events as they happen."""

    def __call__(self, event: Event) -> None:
        """Take one."""


def ignore(event: Event) -> None:
    """Tell nobody of an event: a Report."""
    del event


class Output:
    """The two streams of one command. `kind` is what its standard output is; `finished` once its document is out."""

    def __init__(self, stdout: TextIO, stderr: TextIO, kind: Kind = Kind.TEXT) -> None:
        self.kind = kind
        self.finished = False
        self._stdout = stdout
        self._stderr = stderr

    @property
    def as_json(self) -> bool:
        """Whether a program reads standard output."""
        return self.kind is not Kind.TEXT

    def event(self, event: Event) -> None:
        """Tell of an event: a line of JSON where standard output is of that kind, else of text on standard error."""
        if self.kind is Kind.EVENTS:
            self._line({"event": event.name, **event.data})
        else:
            self._say(event.text)

    def summary(self, event: Event) -> None:
        """Tell of the event that a command of events ends with; people find its text on standard output."""
        if self.as_json:
            self.event(event)
        else:
            self._print(event.text)

    def result(self, text: str, data: object) -> None:
        """Give the one result of a command: a JSON document, or text on standard output."""
        if self.kind is Kind.EVENTS:
            raise TypeError("a document among lines of events could not be told from one")
        if self.as_json:
            self.finished = True
            self._line(data)
        else:
            self._print(text)

    def outcome(self, event: Event) -> None:
        """Tell of the event that is all of a command's result: a JSON document, or text on standard error."""
        if self.as_json:
            self.result(event.text, {"event": event.name, **event.data})
        else:
            self.event(event)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are to standard output."""
        self._stdout.flush()
        self._stdout.buffer.write(data)
        self._stdout.buffer.flush()

    def error(self, error: FreepostError) -> None:
        """Say what went wrong and what to do on standard error, and to programs too, unless they have a document."""
        faults: Sequence[str] = ()
        message = error.message
        if isinstance(error, BadInput):
            message, faults = error.option_message, error.faults
        if self.as_json and not self.finished:
            data = {"event": "error", "error": type(error).__name__, "message": message, "hint": error.hint}
            self._line({**data, "exit_code": error.exit_code, "faults": list(faults)})
        self._say(f"provision: {message}", RED)
        for fault in faults:
            self._say(f"  {fault}")
        if error.hint:
            self._say(f"  → {error.hint}", DIM)

    def _line(self, data: object) -> None:
        self._stdout.write(json.dumps(data, default=str) + "\n")
        self._stdout.flush()

    def _print(self, text: str) -> None:
        self._stdout.write(text.translate(CONTROLS) + "\n")
        self._stdout.flush()

    def _say(self, text: str, style: str = "") -> None:
        shown = text.translate(CONTROLS)
        coloured = style and self._stderr.isatty() and not os.environ.get("NO_COLOR")
        self._stderr.write(f"{style}{shown}{PLAIN}\n" if coloured else f"{shown}\n")
        self._stderr.flush()
