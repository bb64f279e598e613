"""What is handed out presigned: download links, upload slots, POST policies for a prefix; as data and as curl lines.

Pure: a `Signer` holds the bucket, the credentials and the time. What these functions return *is* the permission, so it
goes to the file or the stream that the operator asked for and nowhere else; no repr and no error holds a URL.
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from agent.grant import KEY_BUDGET, Grant, Target, encode_name
from provisioner.clock import iso, to_seconds
from provisioner.errors import BadInput, Expiry
from provisioner.s3 import put_slots
from provisioner.s3.signing import (
    MAX_OBJECT_BYTES,
    MAX_STATUS_BYTES,
    Bucket,
    Credentials,
    check_lifetime,
    presign_url,
    sign_post,
    sign_prefix,
)

# What a GET may ask the store to answer with (AWS, "GetObject": response-* parameters).
OVERRIDABLE = (
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
)
STATUS_FOLDER = ".freepost/"  # below a signed prefix: where `agent push` writes its manifest
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and bytes that are no UTF-8, as argv holds them


@dataclass(frozen=True)
class Link:
    """One presigned request. Whoever sends it sends exactly `headers`; `file` is what the file is called locally."""

    method: str
    bucket: str
    key: str
    url: str = field(repr=False)
    expires: datetime
    file: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None

    def curl(self) -> str:
        """A line for a shell that carries the request out; it fails, with exit code 22, when the store refuses."""
        words = ["curl", "-f", "-g"]  # or it would read {} and [] in -T, and #1 in -o, as patterns
        if "/." in self.key or self.key.startswith("."):
            words.append("--path-as-is")
        if self.method == "GET":
            words += ["--create-dirs"] if "/" in self.file else []
            words += ["-o", self.file]
        else:
            words += ["-T", self.file]
        for name, value in self.headers.items():
            if name != "content-length":  # curl counts the file's bytes itself
                words += ["-H", f"{name}: {value}"]
        return shlex.join([*words, self.url])

    def describe(self) -> dict[str, Any]:
        """The link as JSON holds it."""
        size = {"size": self.size} if self.size is not None else {}
        return {
            "method": self.method,
            "bucket": self.bucket,
            "key": self.key,
            **size,
            "url": self.url,
            "headers": dict(self.headers),
            "expires": iso(self.expires),
            "curl": self.curl(),
        }


@dataclass(frozen=True)
class Signer:
    """Signs for one bucket from `now` until `expires`. Make it with `signer`."""

    bucket: Bucket
    credentials: Credentials
    now: datetime
    expires: datetime

    def get(
        self, key: str, *, overrides: Mapping[str, str] | None = None, file: str = "", size: int | None = None
    ) -> Link:
        """A download link. `overrides` are response headers by their lower-case names (`OVERRIDABLE`)."""
        query = {f"response-{name}": value for name, value in (overrides or {}).items()}
        url = self._presign("GET", key, query=query)
        return Link(
            "GET", self.bucket.name, key, url, self.expires, local_name(file or key.rpartition("/")[2]), {}, size
        )

    def put(  # noqa: PLR0913 - each is one header that is signed
        self,
        key: str,
        *,
        size: int | None = None,
        content_type: str = "",
        sha256: str = "",
        overwrite: bool = True,
        file: str = "",
    ) -> Link:
        """An upload slot for one object of at most 5 GiB.

        `size` (exact bytes), `content_type`, `sha256` (hex) and no overwriting are each a signed header, so the store
        refuses an upload that differs in one of them. `file` is the operator's own path, taken as it is. BadInput for a
        size or digest that can't be.
        """
        headers = {}
        if size is not None:
            if not 0 <= size <= MAX_OBJECT_BYTES:
                raise BadInput(f"an upload slot takes 0 to {MAX_OBJECT_BYTES} bytes, not {size}", hint="change --size")
            headers["content-length"] = str(size)
        if content_type:
            headers["content-type"] = header_value("--type", content_type)
        if sha256:
            headers["x-amz-checksum-sha256"] = _digest(sha256)
        if not overwrite:
            headers["if-none-match"] = "*"
        url = self._presign("PUT", key, headers=headers)
        name = file or local_name(key.rpartition("/")[2])
        return Link("PUT", self.bucket.name, key, url, self.expires, name, headers, size)

    def post(self, prefix: str, *, max_bytes: int, min_bytes: int = 0, extra: Sequence[object] = ()) -> Target:
        """A POST policy for forms that people and their tools fill in: no field but what `extra` asks for.

        (The agent's policies want a checksum besides, which a plain form can't compute.)
        """
        check_max_bytes(max_bytes)
        document = {
            "expiration": iso(self.expires),
            "conditions": [
                {"bucket": self.bucket.name},
                ["starts-with", "$key", prefix],
                ["content-length-range", min_bytes, max_bytes],
                *extra,
            ],
        }
        return sign_post(self.bucket, prefix, document, credentials=self.credentials, now=self.now)

    def grant(self, prefix: str, *, max_bytes: int, names: Sequence[str] = ()) -> Grant:
        """A grant for `agent push`: outputs at `prefix`, the manifest below it in `STATUS_FOLDER`.

        With `names` it is one of presigned PUTs, for these files alone.
        """
        check_max_bytes(max_bytes)
        job = prefix.rstrip("/").rpartition("/")[2] or self.bucket.name
        if names:
            signing = put_slots.Signing(self.bucket, self.credentials, self.now, self.expires - self.now)
            wanted = signing.target(prefix, [encode_name(name) for name in names], most=max_bytes)
            manifest = signing.target(prefix + STATUS_FOLDER, ["manifest.json"])
            return Grant(job, "0", 1, to_seconds(self.expires), wanted, manifest, [], None, None)
        outputs, status = (
            sign_prefix(
                self.bucket, where, credentials=self.credentials, now=self.now, expires=self.expires, max_bytes=limit
            )
            for where, limit in ((prefix, max_bytes), (prefix + STATUS_FOLDER, MAX_STATUS_BYTES))
        )
        return Grant(job, "0", 1, to_seconds(self.expires), outputs, status, [], None, None)

    def _presign(self, method: str, key: str, **signed: Mapping[str, str]) -> str:
        return presign_url(
            method,
            self.bucket,
            key,
            credentials=self.credentials,
            now=self.now,
            lifetime=self.expires - self.now,
            headers=signed.get("headers"),
            query=signed.get("query"),
        )


def signer(bucket: Bucket, credentials: Credentials, *, now: datetime, seconds: int) -> Signer:
    """Return what signs for `seconds` from `now`. Raise BadInput past SigV4's 7 days, Expiry past the session's end."""
    if seconds < 1:
        raise BadInput("a signature lives from 1 second to 7 days", hint="change --expires")
    now = now.replace(microsecond=0)  # a signature states whole seconds
    expires = now + timedelta(seconds=seconds)
    try:
        check_lifetime(credentials, now=now, needed_until=expires, what="--expires")
    except (BadInput, Expiry) as error:
        hint = "sign in again for a longer session, or shorten --expires"
        raise type(error)(error.message, hint=hint if isinstance(error, Expiry) else "shorten --expires") from None
    return Signer(bucket, credentials, now, expires)


def split(url: str) -> tuple[str, str]:
    """Take s3://BUCKET/KEY apart. Raise BadInput for what is no such URL or no key a store would take."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise BadInput(f"{url!r} is not s3://BUCKET/KEY")
    if _CONTROL.search(url) or len(key.encode()) > KEY_BUDGET:
        raise BadInput(
            f"the key of {url[:80]!r} can't be used", hint=f"at most {KEY_BUDGET} bytes of UTF-8, no control characters"
        )
    return bucket, key


def one_key(url: str) -> tuple[str, str]:
    """As `split`, for one object: a key that isn't empty and doesn't end in a slash."""
    bucket, key = split(url)
    if not key or key.endswith("/"):
        raise BadInput(f"{url!r} names no object", hint="give its whole key: s3://BUCKET/PREFIX/NAME")
    return bucket, key


def folder(url: str) -> tuple[str, str]:
    """As `split`, for a prefix, which is returned with a slash at its end, or empty for the whole bucket."""
    bucket, prefix = split(url)
    return bucket, prefix and prefix.rstrip("/") + "/"


def curl_form(target: Target, file: str = "FILE") -> str:
    """A line for a shell that posts `file` with a signed policy, under its own name."""
    words = ["curl", "-f"]
    for name, value in post_fields(target).items():
        words += ["--form-string", f"{name}={value}"]  # unlike -F, takes a value that starts with @ or < as it is
    escaped = file.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.join(
        [*words, "-F", f'file=@"{escaped}"' if re.search(r'[;,"\\]', file) else f"file=@{file}", target.url]
    )


def post_fields(target: Target) -> dict[str, str]:
    """The fields of a form as boto3's ``generate_presigned_post`` gives them; the store expands ``${filename}``."""
    form: dict[str, str] = target.form(key=target.prefix + "${filename}")
    return form


def disposition(filename: str) -> str:
    """A Content-Disposition that saves under `filename`, in any script (RFC 6266, RFC 8187)."""
    if not filename or _CONTROL.search(filename) or "/" in filename or "\\" in filename:
        raise BadInput(f"{filename!r} can't be a file's name", hint="a name without slashes and control characters")
    plain = re.sub(r'[^ -~]|["%]', "_", filename)
    extended = f"; filename*=UTF-8''{quote(filename, safe='')}" if plain != filename else ""
    return f'attachment; filename="{plain}"{extended}'


def parse_overrides(headers: Sequence[str]) -> dict[str, str]:
    """Read ``Name: value`` lines into response headers to override. Raise BadInput for one the store won't override."""
    found = {}
    for line in headers:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name not in OVERRIDABLE:
            raise BadInput(f"--header {line!r} can't be overridden", hint=f"NAME: VALUE, of {', '.join(OVERRIDABLE)}")
        found[name] = header_value(name, value)
    return found


def header_value(name: str, value: str) -> str:
    """Return a header's value. Raise BadInput for an empty one and for what HTTP doesn't carry."""
    if not value or not value.isascii() or _CONTROL.search(value):
        raise BadInput(f"{name} can't be {value!r}", hint="printable ASCII, at least one character")
    return value


def check_max_bytes(value: int) -> None:
    """Raise BadInput unless one POST may carry `value` bytes."""
    if not 1 <= value <= MAX_OBJECT_BYTES:
        raise BadInput(f"--max-bytes must be 1 to {MAX_OBJECT_BYTES}, not {value}", hint="one POST carries up to 5 GiB")


def local_name(key: str) -> str:
    """A path that is safe to write to below the current folder, near to `key`."""
    parts = [_CONTROL.sub("_", part) for part in key.split("/")]
    path = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return f"./{path}" if path.startswith("-") else path


def apart(found: Sequence[Link]) -> list[Link]:
    """Keep links of different objects from being saved under one name: these get the whole path of their keys."""
    names = Counter(file for file, _, _ in {(link.file, link.bucket, link.key) for link in found})
    return [
        link if names[link.file] == 1 else replace(link, file=local_name(f"{link.bucket}/{link.key}")) for link in found
    ]


def _digest(sha256: str) -> str:
    try:
        digest = binascii.unhexlify(sha256)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32:  # noqa: PLR2004 - bytes of a sha256
        raise BadInput(f"--sha256 {sha256[:70]!r} is no sha256", hint="64 hexadecimal digits, as sha256sum prints them")
    return base64.b64encode(digest).decode()
