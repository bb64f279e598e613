"""Times as every document writes them."""

from datetime import datetime, timedelta, timezone

import pytest

from provisioner import clock

THEN = datetime(2026, 11, 23, 20, 0, 5, 999_999, tzinfo=timezone.utc)


def test_a_time_is_written_in_utc_and_whole_seconds():
    """Whatever its zone; read again it is the same second."""
    elsewhere = THEN.astimezone(timezone(timedelta(hours=-8)))
    assert clock.iso(THEN) == clock.iso(elsewhere) == "2026-11-23T20:00:05Z"
    assert clock.from_iso(clock.iso(THEN)) == THEN.replace(microsecond=0)
    assert clock.from_seconds(clock.to_seconds(THEN)) == THEN.replace(microsecond=0)
    assert clock.show_time(elsewhere) == "2026-11-23 20:00:05 UTC"
    assert clock.show_date(elsewhere) == "23 November 2026, 20:00 UTC"


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-23", "2026-13-23T20:00:05Z", "2026-11-23T20:00:05+01:00"])
def test_what_is_no_time_is_refused(text):
    """Only what `iso` writes, with a fraction or without, is a time."""
    with pytest.raises(ValueError, match=r"."):
        clock.from_iso(text)
