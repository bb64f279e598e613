"""The bucket's CORS rules, as far as an upload form needs them, for a page elsewhere to read the store's answers.

A plain form needs no rule. A script's upload does: the browser asks the store first (a preflight) and shows the script
the answer only when the rule names the page's origin. The signature is what protects the bucket; a rule grants nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from provisioner.errors import BadInput, FreepostError, Refused, Unreachable
from provisioner.s3.answers import unreachable
from provisioner.s3.bucket import Store
from provisioner.s3.probe import TIMEOUT_SECONDS

RULE_ID = "freepost-form"
MAX_RULES = 100  # AWS, "Elements of a CORS configuration"


def rule(origins: Sequence[str]) -> dict[str, Any]:
    """The rule that lets pages from `origins` post forms. A page opened from a file has the origin ``null``."""
    return {"ID": RULE_ID, "AllowedOrigins": list(origins), "AllowedMethods": ["POST"], "MaxAgeSeconds": 3600}


def merged(rules: Sequence[Mapping[str, Any]], origins: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return `rules`, in their order, with ours added, or with `origins` added to ours. Raise BadInput past 100."""
    ours = next((item for item in rules if item.get("ID") == RULE_ID), None)
    others = [item for item in rules if item is not ours]
    if ours is not None:
        origins = list(dict.fromkeys([*ours["AllowedOrigins"], *origins]))
    if len(others) >= MAX_RULES:
        raise BadInput(f"the bucket has {len(others)} CORS rules already, all that S3 allows", hint="remove one")
    return [*others, rule(origins)]


def allows(url: str, origin: str) -> bool:
    """Ask the store as a browser would: may a page from `origin` post to the bucket at `url`? Raise Unreachable."""
    asked = "null" if origin == "*" else origin
    headers = {"Origin": asked, "Access-Control-Request-Method": "POST"}
    try:
        answer = requests.options(url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        raise unreachable(url, error) from None
    methods = [each.strip() for each in answer.headers.get("Access-Control-Allow-Methods", "").split(",")]
    return answer.ok and answer.headers.get("Access-Control-Allow-Origin") in ("*", asked) and "POST" in methods


def ensure(store: Store, origins: Sequence[str]) -> bool:
    """Make the bucket allow pages from `origins`; return False when it does already. Other rules stay as they are.

    Raise Refused or Unreachable, with the rule to set by hand, when the store won't have it set.
    """
    if all(allows(store.bucket.url, origin) for origin in origins):
        return False
    try:
        store.set_cors(merged(store.cors(), origins))
    except (Refused, Unreachable) as error:
        raise type(error)(error.message, hint=by_hand(origins)) from None
    return True


def by_hand(origins: Sequence[str]) -> str:
    """What to set where this command may not."""
    return f"add this CORS rule to the bucket: {json.dumps(rule(origins))}"


def check(store: Store, origins: Sequence[str]) -> str:
    """Return a warning when pages from `origins` couldn't upload several files; empty when they can."""
    try:
        if all(allows(store.bucket.url, origin) for origin in origins):
            return ""
    except FreepostError as error:
        return f"could not ask the store whether it takes uploads from pages: {error.message}"
    return f"the bucket doesn't take uploads from pages elsewhere: use --cors, or {by_hand(origins)}"
