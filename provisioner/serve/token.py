"""Tokens of the signing service: what their bearer may have signed, and until when. Pure; the key is passed in.

A token is a chain like a macaroon's (Birgisson et al., 2014, "Macaroons"): every link is authenticated by HMAC-SHA256
under the tag of the chain before it, so that a bearer can add a link that narrows and can take none away::

    fpt1.HEAD.LINK[.LINK]….TAG          each part base64url without padding; HEAD and LINKs are JSON
    HEAD  {"id": "…", "bucket": "…"}    tag0 = HMAC(key, "fpt1." + HEAD)
    LINK  {"prefixes": ["p/job/"], "methods": ["GET", "POST", "PUT"], "max_bytes": n, "expires": "2026-…Z"}
                                        tagN = HMAC(tagN-1, LINK); the last one is TAG

The first link has all four; a later one any of them. What holds is what every link allows. A word that this version
doesn't know makes the token void: it was meant to narrow. So does a value that `mint` and `narrow` would refuse.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from provisioner.clock import from_iso, from_seconds, iso, to_seconds
from provisioner.errors import BadInput, Expiry, Refused
from provisioner.s3url import MAX_OBJECT_BYTES
from provisioner.serve.safe_keys import prefix_fault

VERSION = "fpt1"
METHODS = ("GET", "POST", "PUT")
MAX_BYTES = 8192  # of a token: what servers take in one header line
MAX_LINKS = 16
MAX_PREFIXES = 16  # of one link
_LINK_WORDS = frozenset({"prefixes", "methods", "max_bytes", "expires"})
_LIFETIME = timedelta(days=1)  # of a token that isn't told another
_VOID = "the token is not one of this service"


@dataclass(frozen=True)
class Allowance:
    """What a token allows. `expires` is in seconds since 1970, `max_bytes` bounds one object."""

    id: str
    bucket: str
    prefixes: tuple[str, ...]
    methods: frozenset[str]
    max_bytes: int
    expires: int

    def prefix_of(self, key: str) -> str | None:
        """The longest prefix of the token that covers `key`, which may be a prefix itself; None for a stranger's."""
        found = [prefix for prefix in self.prefixes if key.startswith(prefix)]
        return max(found, key=len) if found else None

    def describe(self) -> dict[str, Any]:
        """Return the allowance as JSON holds it."""
        return {
            "id": self.id,
            "bucket": self.bucket,
            "prefixes": list(self.prefixes),
            "methods": sorted(self.methods),
            "max_bytes": self.max_bytes,
            "expires": iso(from_seconds(self.expires)),
        }


@dataclass(frozen=True)
class Limits:
    """What one link says; None says nothing. `expires` is in seconds since 1970."""

    prefixes: Sequence[str] | None = None
    methods: Iterable[str] | None = None
    max_bytes: int | None = None
    expires: int | None = None


@dataclass(frozen=True)
class _Parts:
    head: str
    links: tuple[str, ...]
    tag: bytes = field(repr=False)

    def dump(self) -> str:
        return ".".join([VERSION, self.head, *self.links, _encode(self.tag)])


def complete(limits: Limits, covered: Sequence[str], now: datetime) -> Limits:
    """Complete the limits of a new token: unless they say otherwise, POST of 5 GiB below `covered` for a day.

    Raise BadInput for a prefix that isn't below one of `covered`.
    """
    outside = [each for each in limits.prefixes or () if not each.startswith(tuple(covered))]
    if outside:
        raise BadInput(
            f"{outside[0]!r} is not below {' or '.join(covered)}", argument="prefix", hint="give the whole key"
        )
    return Limits(
        limits.prefixes or covered,
        limits.methods or ("POST",),
        MAX_OBJECT_BYTES if limits.max_bytes is None else limits.max_bytes,
        limits.expires or to_seconds(now + _LIFETIME),
    )


def mint(key: bytes, token_id: str, bucket: str, limits: Limits) -> str:
    """Make a token. Raise BadInput when `limits` leaves something out or makes no sense."""
    link = _link(limits)
    missing = sorted(_LINK_WORDS - set(link))
    if missing:
        raise BadInput(f"a new token needs {', '.join(missing)}")
    head = _encode(_json({"id": token_id, "bucket": bucket}))
    first = _encode(_json(link))
    return _checked(_Parts(head, (first,), _tag(_tag(key, f"{VERSION}.{head}"), first)))


def narrow(token: str, limits: Limits) -> str:
    """Add a link to a token; needs no key. What it allows then is what both allow."""
    parts = _split(token)
    link = _link(limits)
    if not link:
        raise BadInput("nothing to narrow the token by", hint="give a prefix, methods, a size or an expiry")
    if len(parts.links) >= MAX_LINKS:
        raise BadInput(f"the token was narrowed {MAX_LINKS - 1} times already", hint="ask for a fresh one")
    added = _encode(_json(link))
    return _checked(_Parts(parts.head, (*parts.links, added), _tag(parts.tag, added)))


def verify(key: bytes, token: str, *, now: datetime, revoked: Iterable[str] = ()) -> Allowance:
    """Return what a token allows. Raise Refused for a forged, void or revoked one, Expiry for an expired one."""
    parts = _split(token)
    tag = _tag(key, f"{VERSION}.{parts.head}")
    for link in parts.links:
        tag = _tag(tag, link)
    if not hmac.compare_digest(tag, parts.tag):
        raise Refused(_VOID)
    allowance = _combine(parts)
    if allowance.id in revoked:
        raise Refused("the token is revoked")
    if now.timestamp() >= allowance.expires:
        raise Expiry(f"the token expired at {iso(from_seconds(allowance.expires))}", hint="ask for a fresh one")
    return allowance


def read_unverified(token: str) -> Allowance:
    """Return what a token says that it allows. Whether it is genuine only the holder of the key can tell."""
    return _combine(_split(token))


def _combine(parts: _Parts) -> Allowance:
    head = _document(parts.head)
    if set(head) != {"id", "bucket"} or not all(_plain(word) for word in head.values()):
        raise Refused(_VOID)
    first, *more = [_limits(_document(link)) for link in parts.links]
    if first.prefixes is None or first.methods is None or first.max_bytes is None or first.expires is None:
        raise Refused(_VOID)
    prefixes, methods = tuple(first.prefixes), frozenset(first.methods)
    for limits in more:
        if limits.prefixes is not None:
            prefixes = _common(prefixes, limits.prefixes)
        if limits.methods is not None:
            methods &= frozenset(limits.methods)
    return Allowance(
        id=head["id"],
        bucket=head["bucket"],
        prefixes=prefixes,
        methods=methods,
        max_bytes=min([first.max_bytes, *(each.max_bytes for each in more if each.max_bytes is not None)]),
        expires=min([first.expires, *(each.expires for each in more if each.expires is not None)]),
    )


def _limits(link: dict[str, Any]) -> Limits:
    """What a link says, held to what a link of ours can say: whoever has a token may have added this one."""
    lists = [link[name] for name in ("prefixes", "methods") if name in link]
    texts = [each for found in lists if isinstance(found, list) for each in found]
    try:
        if (
            not set(link) <= _LINK_WORDS
            or not all(type(found) is list for found in lists)
            or not all(type(text) is str for text in [*texts, link.get("expires", "")])
            or type(link.get("max_bytes", 0)) is not int
        ):
            raise Refused(_VOID)
        ends = to_seconds(from_iso(link["expires"])) if "expires" in link else None
        limits = Limits(link.get("prefixes"), link.get("methods"), link.get("max_bytes"), ends)
        _link(limits)
    except (BadInput, TypeError, ValueError):
        raise Refused(_VOID) from None
    return limits


def _plain(word: object) -> bool:
    """A name that can be printed and logged as it is."""
    return type(word) is str and re.fullmatch(r"[!-~]{1,255}", word) is not None


def _common(left: Iterable[str], right: Iterable[str]) -> tuple[str, ...]:
    """The prefixes that both sides cover: of each pair where one lies in the other, the inner one."""
    both = [max(a, b, key=len) for a in left for b in right if a.startswith(b) or b.startswith(a)]
    return tuple(dict.fromkeys(both))


def _link(limits: Limits) -> dict[str, Any]:
    link: dict[str, Any] = {}
    if limits.prefixes is not None:
        link["prefixes"] = list(limits.prefixes)
        faults = [f"{prefix!r}: {prefix_fault(prefix)}" for prefix in limits.prefixes if prefix_fault(prefix)]
        if faults or not 1 <= len(link["prefixes"]) <= MAX_PREFIXES:
            raise BadInput("invalid prefixes of a token", hint="such as results/run-7/", faults=faults)
    if limits.methods is not None:
        link["methods"] = sorted(set(limits.methods))
        if not link["methods"] or not set(link["methods"]) <= set(METHODS):
            raise BadInput("invalid methods of a token", hint=f"some of {', '.join(METHODS)}")
    if limits.max_bytes is not None:
        link["max_bytes"] = limits.max_bytes
        if limits.max_bytes < 0:
            raise BadInput("invalid size limit of a token", hint="bytes, 0 or more")
    if limits.expires is not None:
        link["expires"] = iso(from_seconds(limits.expires))
    return link


def _split(token: str) -> _Parts:
    version, *parts = token.strip().split(".")
    links = parts[1:-1]
    if version != VERSION or len(token) > MAX_BYTES or not 1 <= len(links) <= MAX_LINKS:
        raise Refused(_VOID)
    return _Parts(parts[0], tuple(links), _decode(parts[-1]))


def _checked(parts: _Parts) -> str:
    token = parts.dump()
    if len(token) > MAX_BYTES:
        raise BadInput(f"the token would be longer than {MAX_BYTES} bytes", hint="fewer or shorter prefixes")
    return token


def _document(part: str) -> dict[str, Any]:
    try:
        found = json.loads(_decode(part))
    except (ValueError, RecursionError):
        raise Refused(_VOID) from None
    if not isinstance(found, dict):
        raise Refused(_VOID)
    return found


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _tag(key: bytes, part: str) -> bytes:
    return hmac.new(key, part.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(part: str) -> bytes:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Refused(_VOID) from None
    if _encode(data) != part:  # one spelling a token: spare bits of base64 say nothing
        raise Refused(_VOID)
    return data
