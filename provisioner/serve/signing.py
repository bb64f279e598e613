"""What the service signs: functions of an allowance, a request, credentials and a clock. No network, no framework.

Nothing outside the token's prefixes, its methods, its size limit and its life, nor outside the service's own store.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from agent.grant import Grant, Target
from provisioner.clock import from_seconds, iso, to_seconds
from provisioner.errors import BadInput, Expiry, Refused
from provisioner.s3.signing import (
    MAX_OBJECT_BYTES,
    MAX_STATUS_BYTES,
    Bucket,
    Credentials,
    policy_document,
    presign_url,
    sign_post,
)
from provisioner.serve.safe_keys import key_fault, prefix_fault
from provisioner.serve.token import Allowance

DEFAULT_SECONDS = 3600
OWN_FOLDER = ".freepost/"  # below a prefix that isn't a job's: the manifest of what was pushed there
_OUTPUTS = re.compile(r"(?P<root>(?:.*/)?(?P<job>[^/]+)/)out/(?P<task>[^/]+)/(?P<attempt>[0-9]{1,9})/", re.DOTALL)


@dataclass(frozen=True)
class Signed:
    """An answer, and what of it may be logged."""

    body: dict[str, Any]
    what: str
    where: tuple[str, ...]
    expires: int


@dataclass(frozen=True)
class Desk:
    """Where a service signs. `root` bounds it, whatever a token says; empty for the whole bucket."""

    bucket: Bucket
    root: str
    credentials: Callable[[], Credentials]
    clock: Callable[[], datetime]
    longest: timedelta

    def get(self, allowance: Allowance, keys: Sequence[str], seconds: int | None, filename: str | None) -> Signed:
        """Presign a GET of each key."""
        for key in keys:
            self._admit(allowance, "GET", key)
        credentials, now, until = self._life(allowance, seconds)
        query = {}
        if filename:
            query["response-content-disposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
        urls = [
            presign_url("GET", self.bucket, key, credentials=credentials, now=now, lifetime=until - now, query=query)
            for key in keys
        ]
        listed = [{"key": key, "url": url} for key, url in zip(keys, urls, strict=True)]
        return self._signed({"urls": listed}, "GET", tuple(keys), until)

    def put(self, allowance: Allowance, key: str, size: int, headers: dict[str, str], seconds: int | None) -> Signed:
        """Presign a PUT of exactly `size` bytes: the length is signed, for a PUT can't be given a range."""
        self._admit(allowance, "PUT", key)
        if size > min(allowance.max_bytes, MAX_OBJECT_BYTES):
            raise Refused(f"the token allows objects of up to {allowance.max_bytes} bytes")
        credentials, now, until = self._life(allowance, seconds)
        sent = {"content-length": str(size), **headers}
        url = presign_url("PUT", self.bucket, key, credentials=credentials, now=now, lifetime=until - now, headers=sent)
        return self._signed({"url": url, "headers": sent}, "PUT", (key,), until)

    def post(
        self, allowance: Allowance, key: str | None, prefix: str | None, max_bytes: int | None, seconds: int | None
    ) -> Signed:
        """Sign a POST policy for one key, or for whatever is below a prefix."""
        if key is not None and prefix is not None:
            raise BadInput("a form is for a key or for a prefix, not both")
        bound = self._prefix(allowance, prefix) if key is None else key
        self._admit(allowance, "POST", bound, folder=key is None)
        credentials, now, until = self._life(allowance, seconds)
        limit = min(allowance.max_bytes, MAX_OBJECT_BYTES, MAX_OBJECT_BYTES if max_bytes is None else max_bytes)
        document = policy_document(self.bucket.name, bound, expires=until, max_bytes=limit)
        if key is not None:
            document["conditions"] = [
                {"key": key} if isinstance(item, list) and item[1] == "$key" else item
                for item in document["conditions"]
            ]
        target = sign_post(self.bucket, bound, document, credentials=credentials, now=now)
        fields = {**target.fields, "policy": base64.b64encode(target.policy.encode()).decode()}
        if key is not None:
            fields["key"] = key
        body = {"url": target.url, "prefix": bound, "fields": fields, "max_bytes": limit}
        return self._signed(body, "POST", (bound,), until)

    def grant(
        self, allowance: Allowance, prefix: str | None, max_bytes: int | None, seconds: int | None
    ) -> tuple[Grant, Signed]:
        """Sign a whole grant: for a task's own two prefixes if the token is for these, else below one prefix."""
        job, task, attempt, outputs, status = self._layout(allowance, prefix)
        for bound in (outputs, status):
            self._admit(allowance, "POST", bound, folder=True)
        credentials, now, until = self._life(allowance, seconds)
        limit = min(allowance.max_bytes, MAX_OBJECT_BYTES, MAX_OBJECT_BYTES if max_bytes is None else max_bytes)

        def target(bound: str, most: int) -> Target:
            document = policy_document(self.bucket.name, bound, expires=until, max_bytes=most)
            return sign_post(self.bucket, bound, document, credentials=credentials, now=now)

        own = min(MAX_STATUS_BYTES, allowance.max_bytes)
        made = Grant(
            job, task, attempt, int(until.timestamp()), target(outputs, limit), target(status, own), [], None, None
        )
        return made, self._signed({}, "grant", (outputs, status), until)

    def _layout(self, allowance: Allowance, prefix: str | None) -> tuple[str, str, int, str, str]:
        for outputs in allowance.prefixes if prefix is None else ():
            found = _OUTPUTS.fullmatch(outputs)
            if found:
                status = f"{found['root']}status/{found['task']}/{found['attempt']}/"
                if status in allowance.prefixes:
                    return found["job"], found["task"], int(found["attempt"]), outputs, status
        bound = self._prefix(allowance, prefix)
        return bound.rstrip("/").rpartition("/")[2], "0", 1, bound, bound + OWN_FOLDER

    def _prefix(self, allowance: Allowance, prefix: str | None) -> str:
        """The prefix that was asked for, or the token's only one."""
        if prefix is None and len(allowance.prefixes) == 1:
            return allowance.prefixes[0]
        if prefix is None:
            raise BadInput("the token covers several prefixes, or none", hint="name one: prefix")
        return prefix

    def _admit(self, allowance: Allowance, method: str, key: str, *, folder: bool = False) -> None:
        fault = prefix_fault(key) if folder else key_fault(key)
        if fault:
            raise BadInput(f"nothing is signed for {fault}")
        if method not in allowance.methods:
            raise Refused(f"the token doesn't allow {method}")
        if allowance.bucket != self.bucket.name or not key.startswith(self.root):
            raise Refused("the token is for another store than this service's")
        if allowance.prefix_of(key) is None:
            raise Refused("the token doesn't cover this key or prefix")

    def _life(self, allowance: Allowance, seconds: int | None) -> tuple[Credentials, datetime, datetime]:
        """What signs, now, and until when: the earliest of all ends, whole seconds."""
        credentials, now = self.credentials(), self.clock().replace(microsecond=0)
        ends = [
            now + min(timedelta(seconds=DEFAULT_SECONDS if seconds is None else seconds), self.longest),
            from_seconds(allowance.expires),
        ]
        if credentials.expires is not None:
            ends.append(credentials.expires.replace(microsecond=0))
        if min(ends) <= now:
            raise Expiry("the service's credentials have ended", hint="tell its operator")
        return credentials, now, min(ends)

    @staticmethod
    def _signed(body: dict[str, Any], what: str, where: tuple[str, ...], until: datetime) -> Signed:
        return Signed({**body, "expires": iso(until)}, what, where, to_seconds(until))
