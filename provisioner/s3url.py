"""Where things lie in S3: s3://BUCKET/KEY, wherever one may be written, and the store of a job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.grant import KEY_BUDGET
from provisioner.errors import BadInput

SCHEME = "s3://"
MAX_OBJECT_BYTES = 5 << 30  # in one POST or PUT (AWS, "Uploading objects"); `agent.grant` reads it into a policy, too
# AWS, "General purpose bucket naming rules", loosely. Some old buckets are named otherwise, so only job.yaml insists.
BUCKET = r"(?![^/]*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
ENDPOINT = r"^https?://[^\s/@?#]+(?:/[^\s?#@]*)?$"  # of a service: without user, query and fragment
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and bytes that are no UTF-8, as argv holds them


class S3Url(NamedTuple):
    """A bucket, and what follows it: a key, a prefix or nothing."""

    bucket: str
    key: str

    @property
    def prefix(self) -> str:
        """The key as the prefix of a folder, with a slash at its end; empty for the whole bucket."""
        return self.key and self.key.rstrip("/") + "/"

    @property
    def is_object(self) -> bool:
        """Whether it names one object: a key that isn't empty and doesn't end in a slash."""
        return bool(self.key) and not self.key.endswith("/")


@dataclass(frozen=True)
class StoreSpec:
    """Where results go. `prefix` has no slash at its ends and may be empty."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    addressing: str = "auto"  # auto, path or virtual
    profile: str | None = None
    method: str = "auto"  # auto (post, or put where the store takes no forms), post or put


def check_endpoint(url: str) -> None:
    """Raise BadInput, naming the argument `endpoint_url`, for what is no URL of a service."""
    try:
        fits = re.fullmatch(ENDPOINT, url) is not None and urlsplit(url).port != 0
    except ValueError:  # a port that is no number, or past 65,535
        fits = False
    if not fits:
        raise BadInput(
            f"invalid URL {url!r}", argument="endpoint_url", hint="without user or query, such as http://127.0.0.1:9000"
        )


def show_url(bucket: str, key: str = "") -> str:
    """Write where something lies: ``s3://BUCKET/KEY``, or ``s3://BUCKET`` without a key."""
    return f"{SCHEME}{bucket}/{key}" if key else f"{SCHEME}{bucket}"


def is_s3_url(text: str) -> bool:
    """Tell an object of a store from a local file or a job's name."""
    return text.startswith(SCHEME)


def split_url(url: str) -> S3Url:
    """Take apart a URL that was checked before."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    return S3Url(bucket, key)


def parse_url(url: str, *, argument: str = "") -> S3Url:
    """Take a URL apart. Raise BadInput for what is no such URL, and for a key that no store would take.

    `argument` is where it was given, if it has a name.
    """
    found = split_url(url)
    if not is_s3_url(url) or not found.bucket:
        raise BadInput(f"{url!r} is not s3://BUCKET or s3://BUCKET/KEY", argument=argument)
    if CONTROL.search(url) or len(found.key.encode()) > KEY_BUDGET:
        raise BadInput(
            f"the key of {url[:80]!r} can't be used",
            argument=argument,
            hint=f"at most {KEY_BUDGET} bytes of UTF-8, no control characters",
        )
    return found


def parse_object_url(url: str) -> S3Url:
    """As `parse_url`, for the URL of one object."""
    found = parse_url(url)
    if not found.is_object:
        raise BadInput(f"{url!r} names no object", hint="give its whole key: s3://BUCKET/PREFIX/NAME")
    return found
