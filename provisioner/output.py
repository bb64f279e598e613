"""What people and programs are told: every event is a line of text or a line of JSON, never both on one stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from rich.console import Console

from provisioner.errors import BadInput, FreepostError


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


class Output:
    """The two streams. With `as_json`, standard output carries JSON only and people's text goes to standard error."""

    def __init__(self, stdout: IO[str], stderr: IO[str], *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._stdout = stdout
        self._out = Console(file=stdout, highlight=False, soft_wrap=True, emoji=False)
        self._err = Console(file=stderr, highlight=False, soft_wrap=True, emoji=False)

    def event(self, event: Event) -> None:
        """Tell of an event: a JSON line, or a line of text on standard error."""
        if self.as_json:
            self._line({"event": event.name, **event.data})
        else:
            self._err.print(event.text, markup=False)

    def result(self, text: str, data: object) -> None:
        """Give a command's result: one JSON document, or text on standard output."""
        if self.as_json:
            self._line(data)
        else:
            self._out.print(text, markup=False)

    def raw(self, data: bytes) -> None:
        """Write bytes as they are to standard output."""
        self._stdout.flush()
        self._stdout.buffer.write(data)  # type: ignore[attr-defined]
        self._stdout.buffer.flush()  # type: ignore[attr-defined]

    def error(self, error: FreepostError) -> None:
        """Say what went wrong and what to do: on standard error, and as a JSON line too when programs read."""
        faults = error.faults if isinstance(error, BadInput) else ()
        if self.as_json:
            data = {"event": "error", "error": type(error).__name__, "message": error.message, "hint": error.hint}
            self._line({**data, "exit_code": error.exit_code, "faults": list(faults)})
        self._err.print(f"provision: {error.message}", style="red", markup=False)
        for fault in faults:
            self._err.print(f"  {fault}", markup=False)
        if error.hint:
            self._err.print(f"  → {error.hint}", style="dim", markup=False)

    def _line(self, data: object) -> None:
        self._stdout.write(json.dumps(data, default=str) + "\n")
        self._stdout.flush()
