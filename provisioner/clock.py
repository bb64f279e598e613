"""Times: UTC datetimes, and the one way in which every document of ours writes them.

`agent.grant` owns the format (``timestamp`` and ``instant``, in seconds since 1970), since the agent reads it, too.
"""

from __future__ import annotations

from datetime import datetime, timezone

from agent.grant import instant, timestamp


def utc_now() -> datetime:
    """Return the wall clock's time, in UTC."""
    return datetime.now(timezone.utc)


def from_seconds(seconds: float) -> datetime:
    """Return the time of `seconds` since 1970."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def to_seconds(moment: datetime) -> int:
    """Return whole seconds since 1970."""
    return int(moment.timestamp())


def iso(moment: datetime) -> str:
    """Write a time as every document of ours does: ISO 8601, UTC, whole seconds."""
    text: str = timestamp(to_seconds(moment))
    return text


def from_iso(text: str) -> datetime:
    """Read what `iso` wrote; a fraction of a second is dropped. Raise ValueError for anything else."""
    try:
        return from_seconds(instant(text))
    except (TypeError, OverflowError):
        raise ValueError("that is no time") from None


def show_time(moment: datetime) -> str:
    """Write a time for operators, to the second: ``2026-11-27 17:00:00 UTC``."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def show_date(moment: datetime) -> str:
    """Write a time for whoever is handed a page, to the minute: ``27 November 2026, 17:00 UTC``."""
    return moment.astimezone(timezone.utc).strftime("%-d %B %Y, %H:%M UTC")
