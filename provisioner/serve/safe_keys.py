r"""Which keys may be signed one by one: those that no store, proxy or client reads as another key.

S3 keys are bytes, but stores fold ``//``, ``.`` and ``..`` as paths (SeaweedFS rewrites ``//``, a trailing ``/`` and
``\``; measured), proxies decode ``%2e``, and file systems normalise Unicode. A key that any of these could move out of
a prefix, or that has two spellings, is refused rather than rewritten: what was asked for is what is signed.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from agent.grant import KEY_BUDGET

_DECODINGS = 4  # a key that is still changing after so many percent-decodings is up to no good
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# In every reading: an empty or dot segment, whatever separates segments there.
_UNSAFE = re.compile(r"(?:^|[/\\])(?:\.{1,2})?(?:[/\\]|$)")


def key_fault(key: str) -> str:
    """Say why `key` is not signed; empty for a key that is fine.

    Fine is: 1 to 1,024 bytes of UTF-8 without control characters, backslashes, empty, ``.`` or ``..`` segments, in
    any reading of it (percent-decoded, Unicode-normalised).
    """
    if not key:
        return "an empty key"
    if _CONTROL.search(key):
        return "a key with a control character"
    if len(key.encode()) > KEY_BUDGET:
        return f"a key longer than {KEY_BUDGET} bytes"
    if "\\" in key:
        return "a key with a backslash"
    for reading in readings(key):
        if _UNSAFE.search(reading):
            return "a key with an empty, . or .. segment, or one that can be read so"
    if readings(key)[-1] != unquote(readings(key)[-1], errors="replace"):
        return "a key that is percent-encoded over and over"
    return ""


def prefix_fault(prefix: str) -> str:
    """Say why `prefix` can't bound a token; empty for one that can.

    It ends in a slash: ``job1`` would cover ``job10`` too.
    """
    if not prefix.endswith("/"):
        return "a prefix that doesn't end in a slash"
    return key_fault(prefix[:-1]).replace("key", "prefix")


def readings(key: str) -> list[str]:
    """Every way in which somebody may read a key: percent-decoded once and more often, and each of these normalised."""
    found = [key]
    for _ in range(_DECODINGS):
        found.append(unquote(found[-1], errors="replace"))
    decoded = found[-1]
    return [unicodedata.normalize(form, each) for each in dict.fromkeys(found) for form in ("NFC", "NFKC")] + [decoded]
