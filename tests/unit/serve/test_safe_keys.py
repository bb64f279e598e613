"""Keys that are signed one by one have one reading."""

import posixpath
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.serve.safe_keys import key_fault, prefix_fault

PREFIX = "p/job/"
PIECES = [
    "..",
    ".",
    "/",
    "//",
    "\\",
    "%2e",
    "%2E%2e",
    "%2f",
    "%5c",
    "%252e",
    "%25",
    "%",
    "\uff0e",
    "\uff0f",
    "‥",
    "…",
    "a",
    "é",
    "e\u0301",
    "\u0338",
    "\x00",
    "\n",
    "\ud800",
    "\u2028",
    "job",
    " ",
    "+",
]
keys = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


def folded(key):
    """How somebody between us and the object may read a key."""
    for decode in (str, unquote, lambda text: unquote(unquote(text))):
        for form in (None, "NFC", "NFD", "NFKC", "NFKD"):
            text = decode(key)
            yield text if form is None else unicodedata.normalize(form, text)


@given(keys)
@example("../x")
@example("%252e%252e/%252e%252e/x")
@example("\uff0e\uff0e\uff0f\uff0e\uff0e\uff0fx")
def test_a_key_that_is_signed_stays_below_its_prefix_however_it_is_read(key):
    """Decoded, normalised or folded as a path, it lies where it was asked for."""
    whole = PREFIX + key
    if not key_fault(whole):
        for reading in folded(whole):
            path = posixpath.normpath(reading.replace("\\", "/"))
            assert path.startswith(PREFIX)
            assert not path.endswith("/..")


@given(keys)
def test_what_is_signed_is_one_spelling(key):
    """A signed key survives the URL, and has no empty or dot segment."""
    if not key_fault(key):
        assert unquote(quote(key, safe="/~")) == key
        assert not {"", ".", ".."} & set(key.split("/"))


@pytest.mark.parametrize(
    "key", ["a", "a/b.txt", "a b/ü/日本", "a..b/.hidden/...", "100%", "a%20b", "x" * 1024, "a+b=c&d"]
)
def test_ordinary_names_are_signed(key):
    """Spaces, accents, dots inside names and percent signs are no offence."""
    assert key_fault(key) == ""


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "../a",
        "a/..",
        "a\\b",
        "a%2f..%2fb",
        "a\x00",
        "a\x7f",
        "x" * 1025,
        "é" * 513,
        "\udc80",
        "a/%2e%2e/b",
        "a/%252e%252e/b",
    ],
)
def test_two_faced_names_are_refused(key):
    """Each with a reason that a person understands and that doesn't quote it."""
    assert "key" in key_fault(key)


def test_a_prefix_ends_in_a_slash():
    """A prefix is a folder: job1 would cover job10."""
    assert prefix_fault("p/job/") == ""
    for prefix in ("", "/", "p/job", "p//", "p/../", "../"):
        assert "prefix" in prefix_fault(prefix)
