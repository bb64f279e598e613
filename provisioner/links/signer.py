"""Signs what is handed out: download links, upload slots, POST policies and grants for a prefix.

Pure: a `LinkSigner` holds the bucket, the credentials and the time. What it returns *is* the permission, so it goes to
the file or the stream that the operator asked for and nowhere else; no repr and no error holds a URL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.grant import Grant, Target, encode_name
from agent.layout import MANIFEST
from provisioner.errors import BadInput
from provisioner.links.headers import header_value
from provisioner.links.link import Link, local_name
from provisioner.s3.grants import GrantScope, make_grant, sign_scope
from provisioner.s3.put_slots import SlotSigner
from provisioner.s3.signing import (
    MAX_LIFETIME,
    Bucket,
    Credentials,
    RequestSigner,
    check_lifetime,
    policy_document,
)
from provisioner.s3url import MAX_OBJECT_BYTES


@dataclass(frozen=True)
class LinkSigner(RequestSigner):
    """Signs for one bucket from `now` until `expires`. Make it with `make_signer`."""

    expires: datetime

    @property
    def lifetime(self) -> timedelta:
        """How long what is signed works."""
        return self.expires - self.now

    def get(
        self, key: str, *, overrides: Mapping[str, str] | None = None, file: str = "", size: int | None = None
    ) -> Link:
        """A download link. `overrides` are response headers by their lower-case names (`headers.OVERRIDABLE`)."""
        query = {f"response-{name}": value for name, value in (overrides or {}).items()}
        url = self.presign("GET", key, self.lifetime, query=query)
        name = local_name(file or key.rpartition("/")[2])
        return Link("GET", self.bucket.name, key, url, self.expires, name, size=size)

    def put(
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
                raise BadInput(
                    f"{size} is out of range",
                    argument="size",
                    hint=f"an upload slot takes 0 to {MAX_OBJECT_BYTES} bytes",
                )
            headers["content-length"] = str(size)
        if content_type:
            headers["content-type"] = header_value("content_type", content_type)
        if sha256:
            headers["x-amz-checksum-sha256"] = _base64_digest(sha256)
        if not overwrite:
            headers["if-none-match"] = "*"
        url = self.presign("PUT", key, self.lifetime, headers=headers)
        name = file or local_name(key.rpartition("/")[2])
        return Link("PUT", self.bucket.name, key, url, self.expires, name, headers, size)

    def post(self, prefix: str, *, max_bytes: int, min_bytes: int = 0, extra: Sequence[object] = ()) -> Target:
        """A POST policy for forms that people and their tools fill in: no field but what `extra` asks for."""
        check_max_bytes(max_bytes)
        document = policy_document(
            self.bucket.name, prefix, expires=self.expires, max_bytes=max_bytes, min_bytes=min_bytes, extra=extra
        )
        return self.sign_policy(prefix, document)

    def grant(self, prefix: str, *, max_bytes: int, names: Sequence[str] = ()) -> Grant:
        """A grant for `agent push`: outputs at `prefix`, the manifest below it.

        With `names` it is one of presigned PUTs, for these files alone.
        """
        check_max_bytes(max_bytes)
        scope = GrantScope.of_prefix(prefix, self.bucket.name)
        if not names:
            return sign_scope(self, scope, expires=self.expires, max_bytes=max_bytes)
        slots = SlotSigner(self.bucket, self.credentials, self.now, self.lifetime)
        outputs = slots.target(scope.outputs, [encode_name(name) for name in names], max_bytes=max_bytes)
        return make_grant(scope, self.expires, (outputs, slots.target(scope.status, [MANIFEST])))


def make_signer(bucket: Bucket, credentials: Credentials, *, now: datetime, seconds: int) -> LinkSigner:
    """Return what signs for `seconds` from `now`. Raise BadInput past SigV4's 7 days, Expiry past the session's end."""
    if not 1 <= seconds <= MAX_LIFETIME.total_seconds():
        raise BadInput("a signature lives from 1 second to 7 days", argument="expires")
    now = now.replace(microsecond=0)  # a signature states whole seconds
    expires = now + timedelta(seconds=seconds)
    check_lifetime(
        credentials, now=now, needed_until=expires, what="what is signed", shorten="its lifetime (`expires`)"
    )
    return LinkSigner(bucket, credentials, now, expires)


def check_max_bytes(value: int) -> None:
    """Raise BadInput unless one POST may carry `value` bytes."""
    if not 1 <= value <= MAX_OBJECT_BYTES:
        raise BadInput(
            f"{value} is out of range", argument="max_bytes", hint=f"one POST carries 1 to {MAX_OBJECT_BYTES} bytes"
        )


def _base64_digest(sha256: str) -> str:
    try:
        digest = binascii.unhexlify(sha256)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise BadInput(
            f"invalid digest {sha256[:70]!r}",
            argument="sha256",
            hint="64 hexadecimal digits, as sha256sum prints them",
        )
    return base64.b64encode(digest).decode()
