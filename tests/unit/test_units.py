"""Durations and sizes as people write them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner import units
from provisioner.errors import BadInput


@pytest.mark.parametrize(
    ("text", "value"),
    [("90s", 90), ("1h30m", 5400), ("2d", 172_800), ("1d2h3m4s", 93_784), ("0s", 0), (90, 90), (90.0, 90)],
)
def test_seconds(text, value):
    """A duration is whole seconds, or numbers with their units, the larger first."""
    assert units.seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5GiB", 5 * 2**30),
        ("64MiB", 2**26),
        ("10MB", 10**7),
        ("1kB", 1000),
        ("1KB", 1000),
        ("2 TiB", 2**41),
        ("7B", 7),
        (7, 7),
    ],
)
def test_size(text, value):
    """A size is whole bytes, or a number with a unit: MB is of 1000, MiB of 1024."""
    assert units.size(text) == value


@pytest.mark.parametrize("text", ["", "90", "1m1h", "1.5h", "-1s", "1h 30m", "s", "1H", "1s\n", "1234567h"])
def test_no_seconds(text):
    """Anything else is no duration."""
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        units.seconds(text)


@pytest.mark.parametrize("text", ["", "5", "5GB/s", "GiB", "1.5GiB", "-1B", "5gib", "1B\n"])
def test_no_size(text):
    """Anything else is no size."""
    with pytest.raises(ValueError, match=rf"^{re.escape(text)}$"):
        units.size(text)


@given(st.integers(0, 10**9))
def test_round_trip(number):
    """What is shown can be read again."""
    assert units.seconds(units.show_seconds(number)) == number
    assert units.size(units.show_size(number)) == number


def test_an_option_is_named_when_its_value_is_none():
    """A duration or a size that can't be read, or is out of bounds, is told with the option and the value."""
    assert units.option_seconds("--expires", "1h30m") == 5400
    assert units.option_size("--max-bytes", "12") == 12
    assert units.option_size("--max-bytes", "1MiB") == 2**20
    with pytest.raises(BadInput, match="--expires: invalid duration 'soon'"):
        units.option_seconds("--expires", "soon")
    for text in ("0s", "2d"):
        with pytest.raises(BadInput, match=f"--longest: duration '{text}' is out of range") as caught:
            units.option_seconds("--longest", text, least=1, most=86_400)
        assert caught.value.hint == "at least 1s, at most 1d"
    with pytest.raises(BadInput, match="--max-bytes: invalid size '1 pile'"):
        units.option_size("--max-bytes", "1 pile")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1 kB"), (999_999, "1 MB"), (5 << 30, "5.37 GB")],
)
def test_sizes_for_people(count, text):
    """Sizes are in powers of a thousand, to three digits."""
    assert units.show_bytes(count) == text
