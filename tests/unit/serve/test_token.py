"""Tokens of the signing service: what they allow, that they narrow only, and that a forged one is nothing."""

import base64
import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.clock import from_seconds
from provisioner.errors import BadInput, Expiry, Refused
from provisioner.serve import token
from provisioner.serve.token import Limits

KEY = b"k" * 32
NOW = datetime(2026, 11, 23, 21, tzinfo=timezone.utc)
LATER = int(NOW.timestamp()) + 3600
FULL = Limits(["p/job/"], ["GET", "POST", "PUT"], 1000, LATER)


@pytest.fixture
def minted():
    """A token for p/job/, all methods, 1,000 bytes, one hour."""
    return token.mint(KEY, "0123456789abcdef", "bkt", FULL)


def verify(text, **more):
    """What the service makes of a token."""
    return token.verify(KEY, text, now=NOW, **more)


def test_a_token_allows_what_it_was_made_for(minted):
    """Every limit comes back as it was given."""
    found = verify(minted)
    assert found.prefixes == ("p/job/",)
    assert (found.methods, found.max_bytes, found.expires) == (frozenset({"GET", "POST", "PUT"}), 1000, LATER)
    assert token.read_unverified(minted) == found


@pytest.mark.parametrize("left", ["prefixes", "methods", "max_bytes", "expires"])
def test_a_token_without_a_limit_is_not_made(left):
    """There is no token for everything."""
    limits = Limits(**{name: None if name == left else getattr(FULL, name) for name in FULL.__dataclass_fields__})
    with pytest.raises(BadInput, match=left):
        token.mint(KEY, "id", "bkt", limits)


@pytest.mark.parametrize(
    "prefix", ["", "p", "/", "/p/", "p//", "p/../", "p/%2e%2e/", "p\\/", "p/\x00/", "p/\uff0e\uff0e/"]
)
def test_a_prefix_that_can_be_read_as_another_is_no_bound(prefix):
    """A token's prefix is a plain folder: job1 must not cover job10, and nothing climbs out."""
    with pytest.raises(BadInput):
        token.mint(KEY, "id", "bkt", Limits([prefix], ["GET"], 1, LATER))


def test_a_bearer_narrows_without_the_key(minted):
    """Each added link counts, whatever the others say."""
    narrow = token.narrow(minted, Limits(prefixes=["p/job/a/", "q/"], methods=["POST"]))
    narrow = token.narrow(narrow, Limits(max_bytes=10**9, expires=LATER + 10**6))
    found = verify(narrow)
    assert found.prefixes == ("p/job/a/",)
    assert (found.methods, found.max_bytes, found.expires) == (frozenset({"POST"}), 1000, LATER)


limits = st.builds(
    Limits,
    prefixes=st.none()
    | st.lists(st.sampled_from(["p/", "p/job/", "p/job/a/", "p/job/b/", "q/"]), min_size=1, max_size=3),
    methods=st.none() | st.lists(st.sampled_from(token.METHODS), min_size=1),
    max_bytes=st.none() | st.integers(0, 5000),
    expires=st.none() | st.integers(LATER - 1000, LATER + 1000),
).filter(lambda each: each != Limits())


@given(st.lists(limits, max_size=5), st.sampled_from(["p/job/k", "p/job/a/k", "p/job/b/k", "p/k", "q/k"]))
def test_narrowing_never_widens(chain, key):
    """Whatever links are added, a token allows no more than before each."""
    text = token.mint(KEY, "id", "bkt", FULL)
    before = verify(text)
    for each in chain:
        text = token.narrow(text, each)
        after = verify(text)
        assert after.methods <= before.methods
        assert after.max_bytes <= before.max_bytes
        assert after.expires <= before.expires
        assert before.prefix_of(key) is not None or after.prefix_of(key) is None
        assert each.prefixes is None or after.prefix_of(key) is None or any(map(key.startswith, each.prefixes))
        before = after


@given(st.data())
def test_a_token_with_one_other_character_is_forged(data):
    """Any change of any character makes it void."""
    text = token.narrow(token.mint(KEY, "id", "bkt", FULL), Limits(methods=["GET"]))
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCab01-_.=~ \u00e9").filter(lambda char: char != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    if changed.strip() != text:
        with pytest.raises(Refused):
            verify(changed)


def test_links_can_be_neither_dropped_swapped_nor_added_by_hand(minted):
    """The chain holds: a narrowed token can't be cut back, and a link without its tag is nothing."""
    narrow = token.narrow(token.narrow(minted, Limits(methods=["GET"])), Limits(max_bytes=1))
    version, head, one, two, three, tag = narrow.split(".")
    for parts in ([one, two], [one, three, two], [one], [two, three], [one, two, three, three]):
        with pytest.raises(Refused):
            verify(".".join([version, head, *parts, tag]))
    with pytest.raises(Refused):
        token.verify(b"another key", minted, now=NOW)


def test_a_word_that_this_version_does_not_know_makes_a_token_void(minted):
    """A link of a later version was meant to narrow: ignoring it would widen."""
    version, head, link, tag = minted.split(".")
    more = base64.urlsafe_b64encode(json.dumps({"address": "10.0.0.1"}).encode()).rstrip(b"=").decode()
    added = token._encode(token._tag(token._decode(tag), more))
    with pytest.raises(Refused):
        verify(f"{version}.{head}.{link}.{more}.{added}")


def linked(text, raw):
    """The token `text` with one more link of any bytes, as a bearer can add it."""
    *rest, tag = text.split(".")
    link = token._encode(raw)
    return ".".join([*rest, link, token._encode(token._tag(token._decode(tag), link))])


@pytest.mark.parametrize(
    "raw",
    [
        b'{"max_bytes": 1e999}',
        b'{"max_bytes": NaN}',
        b'{"max_bytes": -1}',
        b'{"max_bytes": "1"}',
        b'{"max_bytes": true}',
        b'{"max_bytes": null}',
        rb'{"prefixes": ["p/job/\ud800/"]}',
        b'{"prefixes": ["p/job/a"]}',
        b'{"prefixes": ["p/job/../"]}',
        b'{"prefixes": "p/job/"}',
        b'{"prefixes": [["p/job/"]]}',
        b'{"prefixes": []}',
        b'{"methods": "GET"}',
        b'{"methods": [["GET"]]}',
        b'{"methods": ["DELETE"]}',
        b'{"methods": {"GET": 1}}',
        b'{"expires": 1}',
        b'{"expires": "2026"}',
        b'{"expires": "9999-99-99T99:99:99Z"}',
        b"[]",
        b"\xff",
    ],
)
def test_a_link_that_narrow_would_refuse_makes_a_token_void(minted, raw):
    """A bearer can sign any link; only what `narrow` could have added counts, and nothing else raises."""
    assert verify(linked(minted, b'{"max_bytes": 7}')).max_bytes == 7
    for look in (verify, token.read_unverified):
        with pytest.raises(Refused, match="not one of this service"):
            look(linked(minted, raw))


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_is_refused(text):
    """Rubbish is refused with a sentence, never with a traceback."""
    for each in (text, f"fpt1.{text}", f"fpt1.e30.e30.{text}"):
        with pytest.raises(Refused):
            verify(each)


def test_a_token_ends_when_it_says_and_when_it_is_revoked(minted):
    """At its expiry to the second, and at once when its id is on the list, narrowed ones too."""
    assert token.verify(KEY, minted, now=from_seconds(LATER - 1))
    with pytest.raises(Expiry, match="expired at"):
        token.verify(KEY, minted, now=from_seconds(LATER))
    for each in (minted, token.narrow(minted, Limits(methods=["GET"]))):
        with pytest.raises(Refused, match="revoked"):
            verify(each, revoked=["0123456789abcdef"])


def test_a_chain_and_a_token_have_an_end(minted):
    """A token stays short enough for a header line."""
    for _ in range(token.MAX_LINKS - 1):
        minted = token.narrow(minted, Limits(max_bytes=1))
    with pytest.raises(BadInput, match="narrowed"):
        token.narrow(minted, Limits(max_bytes=1))


def test_a_new_token_is_for_a_day_of_small_uploads_unless_it_says_otherwise():
    """What isn't said is POST of 5 GiB below all that it covers; a prefix is below one of these."""
    now = from_seconds(LATER)
    whole = token.complete(token.Limits(), ["p/job/"], now)
    assert whole == token.Limits(["p/job/"], ("POST",), 5 << 30, LATER + 86_400)
    said = token.Limits(["p/job/a/"], ["GET"], 0, LATER)
    assert token.complete(said, ["p/job/"], now) == said
    with pytest.raises(BadInput, match="prefix: 'p/other/' is not below p/job/"):
        token.complete(token.Limits(["p/other/"]), ["p/job/"], now)
