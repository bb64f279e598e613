"""Presigned PUTs for a store that takes no forms: the signature of each object that may be stored.

Pure. A presigned PUT is for one key, and can't bound a size; so a grant of PUTs names every object that the VM may
store. `agent/put_upload.py` documents the fields, and builds each URL from the part of the query that all have in
common. Which objects a job's VMs store is told in `plan.put_outputs`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from urllib.parse import quote, urlsplit

from agent.grant import Target
from provisioner.clock import iso
from provisioner.s3.signing import ALGORITHM, RequestSigner, amz_date
from provisioner.s3url import MAX_OBJECT_BYTES

MIN_PART_BYTES = 64 << 20  # bytes: a file of one part needs no multipart upload
MAX_PARTS = 256  # of a file, unless parts of 5 GiB are too small for it: each takes some 35 bytes of the grant


@dataclass(frozen=True)
class SlotSigner(RequestSigner):
    """Signs slots: for a bucket as the VM reaches it, from `now` for `lifetime`.

    A grant may have thousands of signatures, and botocore takes five times as long for each: so the steps of SigV4
    (AWS, "Authenticating requests: using query parameters") are taken here, and a test holds them equal to botocore's.
    """

    lifetime: timedelta

    def sign(self, method: str, key: str, query: Mapping[str, str] | None = None) -> str:
        """Return the signature of one URL."""
        words = [*self._common, *(f"{name}={quote(value, safe='~')}" for name, value in (query or {}).items())]
        address = urlsplit(self.bucket.url + quote(key, safe="/~"))
        request = (
            f"{method}\n{address.path}\n{'&'.join(sorted(words))}\nhost:{address.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
        )
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{ALGORITHM}\n{self._stamp}\n{self._scope}\n{digest}"
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()

    @property
    def _stamp(self) -> str:
        return amz_date(self.now)

    @property
    def _scope(self) -> str:
        return f"{self._stamp[:8]}/{self.bucket.region}/s3/aws4_request"

    @cached_property
    def _common(self) -> tuple[str, ...]:
        """The words that every URL's query has, as botocore writes them."""
        made = self.presign("PUT", "k", self.lifetime)
        return tuple(word for word in urlsplit(made).query.split("&") if not word.startswith("X-Amz-Signature="))

    @cached_property
    def _key(self) -> bytes:
        key = f"AWS4{self.credentials.secret_key}".encode()
        for word in self._scope.split("/"):
            key = hmac.new(key, word.encode(), "sha256").digest()
        return key

    def target(
        self,
        prefix: str,
        names: Iterable[str],
        *,
        max_bytes: int = MAX_OBJECT_BYTES,
        large: Mapping[str, tuple[int, str]] | None = None,
    ) -> Target:
        """Sign a PUT of each name below `prefix`; those in `large` (largest size, UploadId) also in parts.

        `max_bytes` is the largest file, in bytes, that the agent sends by one PUT.
        """
        signed = {name: self.sign("PUT", prefix + name) for name in names}
        policy = {
            "expiration": iso(self.now + self.lifetime),
            "conditions": [["content-length-range", 0, max_bytes]],
        }
        # `split` keeps the agent from storing a large file as several objects: there would be no slots for them.
        fields: dict[str, object] = {
            "query": "&".join(self._common),
            "slots": signed,
            "split": 1 << 63,
        }
        if large:
            fields["large"] = {name: self._parts(prefix + name, *about) for name, about in large.items()}
        return Target(self.bucket.url, prefix, json.dumps(policy, separators=(",", ":")), fields)

    def _parts(self, key: str, size: int, upload: str) -> dict[str, object]:
        step, count = part_layout(size)
        named = {"uploadId": upload}
        return {
            "upload": upload,
            "part": step,
            "parts": [self.sign("PUT", key, {"partNumber": str(number), **named}) for number in range(1, count + 1)],
            "list": self.sign("GET", key, named),
            "complete": self.sign("POST", key, named),
            "head": self.sign("HEAD", key),
        }

    def aborts(self, uploads: Mapping[str, str]) -> dict[str, list[str]]:
        """Sign the end of uploads, by key: what the last event of an attempt does with those not completed."""
        return {key: [upload, self.sign("DELETE", key, {"uploadId": upload})] for key, upload in uploads.items()}


def part_layout(size: int) -> tuple[int, int]:
    """How a file of at most `size` bytes is cut: the bytes of a part, and the number of parts."""
    step = min(max(MIN_PART_BYTES, -(-size // MAX_PARTS >> 20) << 20), MAX_OBJECT_BYTES)
    return step, -(-size // step)


def slot_url(target: Target, name: str) -> str:
    """The presigned PUT of one name, whole. Raise KeyError for one without a slot."""
    key = quote(target.prefix + name, safe="/~")
    return f"{target.url}{key}?{target.fields['query']}&X-Amz-Signature={target.fields['slots'][name]}"


def takes_puts(target: Target) -> bool:
    """Whether a target is one of PUTs."""
    return "slots" in target.fields
