"""Durations, sizes and indexes as people write them: ``1h30m``, ``64MiB``, ``0-3``.

The patterns are plain enough for both Python and a JSON Schema in an editor.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from provisioner.errors import BadInput

DURATION = r"^([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,9}s)?$"
SIZE = r"^[0-9]{1,15} ?([kKMGT]i?)?B$"
_RANGE = "[0-9]{1,9}(?:-[0-9]{1,9}(?::[1-9][0-9]{0,8})?)?"
RANGES = f"^{_RANGE}(?:,{_RANGE})*$"

LONGEST_SIGNATURE = 604_800  # seconds: 7 days (AWS, sigv4-query-string-auth: X-Amz-Expires)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_STEP = 1000
_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


def seconds(value: float | str) -> int:
    """Read a duration: whole seconds, or parts in the order ``d h m s``: ``1h30m`` is 5400. ValueError for all else."""
    if isinstance(value, str):
        if not value or value.endswith("\n") or not re.search(DURATION, value):  # `$` stands before a last newline too
            raise ValueError(value)
        return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([dhms])", value))
    return int(value)


def size(value: float | str) -> int:
    """Read a size: whole bytes, or a number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024)."""
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,15}) ?([kKMGT]?)(i?)B", value)
        if not found:
            raise ValueError(value)
        base = 1024 if found[3] else 1000
        return int(found[1]) * int(base ** _POWERS[found[2].replace("K", "k")])
    return int(value)


def option_seconds(option: str, text: str, *, least: int = 0, most: int | None = None) -> int:
    """Read the duration that an option was given. Raise BadInput, naming the option, for none or one out of bounds."""
    try:
        value = seconds(text)
    except ValueError:
        raise BadInput(f"{option}: invalid duration {text!r}", hint="such as 90s, 10m, 1h30m or 2d") from None
    if value < least or (most is not None and value > most):
        bounds = f"at least {show_seconds(least)}" + (f", at most {show_seconds(most)}" if most is not None else "")
        raise BadInput(f"{option}: duration {text!r} is out of range", hint=bounds)
    return value


def option_size(option: str, text: str) -> int:
    """Read the size that an option was given, in bytes. Raise BadInput, naming the option, for what is none."""
    try:
        return size(int(text) if text.isascii() and text.isdecimal() else text)
    except ValueError:
        raise BadInput(f"{option}: invalid size {text!r}", hint="bytes, or such as 10MB, 64MiB or 5GiB") from None


def show_seconds(value: int) -> str:
    """Write a duration the way `seconds` reads it: 5400 is ``1h30m``."""
    parts = []
    for unit, length in _SECONDS.items():
        count, value = divmod(value, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def show_size(value: int) -> str:
    """Write a size the way `size` reads it, in the largest unit that leaves no rest: 67108864 is ``64MiB``.

    It is exact, as a limit has to be; `show_bytes` is rounded, as people read a file's size.
    """
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if value and value % size(f"1{unit}") == 0:
            return f"{value // size(f'1{unit}')}{unit}"
    return f"{value}B"


def show_bytes(count: float) -> str:
    """Write a size for people, to three digits: 1,234,567 is ``1.23 MB`` (powers of 1000)."""
    if count < _STEP:
        return f"{count} {'byte' if count == 1 else 'bytes'}"
    power = 0
    while count >= _STEP - 0.5 and power < len(_UNITS) - 1:  # what rounds to 1000 is 1.0 of the next unit
        count, power = count / _STEP, power + 1
    return f"{count:.3g} {_UNITS[power]}"


def indexes(value: float | str | Sequence[float], most: int) -> tuple[int, ...]:
    """Read an array: 4 is 0 to 3; ``0-3``, ``0-9:2`` and ``1,5,7`` are ranges; a list is itself.

    ValueError, with what is wrong as its text, for none at all, more than `most`, or an index that comes twice.
    """
    if isinstance(value, str):
        found = _ranges(value, most)
    elif isinstance(value, Sequence):
        found = [int(each) for each in value]
    else:
        found = list(range(min(int(value), most + 1)))
    if not 1 <= len(found) <= most:
        raise ValueError("no index" if not found else f"more than {most} indexes")
    seen: set[int] = set()
    for each in found:
        if each in seen:
            raise ValueError(f"the index {each} a second time")
        seen.add(each)
    return tuple(found)


def _ranges(text: str, most: int) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, rest = part.partition("-")
        last, _, step = rest.partition(":")
        span = range(int(first), int(last or first) + 1, int(step or 1))
        if not span:
            raise ValueError(f"the range {part}, which ends before it starts")
        found.extend(span[: most + 1])
    return found
