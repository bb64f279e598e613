"""The headers that a link carries: those that it makes the store answer with, and those that an upload has to send."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner.errors import BadInput
from provisioner.s3.signing import content_disposition
from provisioner.s3url import CONTROL

# What a GET may ask the store to answer with (AWS, "GetObject": response-* parameters).
OVERRIDABLE = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)


def disposition(filename: str) -> str:
    """Return the Content-Disposition that saves under `filename`. Raise BadInput for what is no file's name."""
    if not filename or CONTROL.search(filename) or "/" in filename or "\\" in filename:
        raise BadInput(
            f"invalid name {filename!r}", argument="filename", hint="a name without slashes and control characters"
        )
    return content_disposition(filename)


def parse_overrides(headers: Sequence[str]) -> dict[str, str]:
    """Read ``Name: value`` lines into response headers to override. Raise BadInput for one the store won't override."""
    found = {}
    for line in headers:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name not in OVERRIDABLE:
            raise BadInput(
                f"no store overrides {line!r}", argument="header", hint=f"NAME: VALUE, of {', '.join(OVERRIDABLE)}"
            )
        found[name] = header_value("header", value)
    return found


def header_value(argument: str, value: str) -> str:
    """Return a header's value. Raise BadInput, naming the argument, for none and for what HTTP doesn't carry."""
    if not value or not value.isascii() or CONTROL.search(value):
        raise BadInput(f"invalid value {value!r}", argument=argument, hint="printable ASCII, at least one character")
    return value
