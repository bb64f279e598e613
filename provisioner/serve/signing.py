"""What the service signs: functions of an allowance, a request, credentials and a clock. No network, no framework.

Nothing outside the token's prefixes, its methods, its size limit and its life, nor outside the service's own store.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.grant import Grant
from provisioner.clock import from_seconds, iso, to_seconds
from provisioner.errors import BadInput, Expiry, Refused
from provisioner.plan.layout import parse_outputs
from provisioner.s3.grants import GrantScope, sign_scope
from provisioner.s3.signing import (
    MAX_STATUS_BYTES,
    Bucket,
    Credentials,
    RequestSigner,
    content_disposition,
    policy_document,
)
from provisioner.s3url import MAX_OBJECT_BYTES
from provisioner.serve.safe_keys import key_fault, prefix_fault
from provisioner.serve.token import Allowance

DEFAULT_SECONDS = 3600


@dataclass(frozen=True)
class Signed:
    """An answer, and what of it may be logged."""

    body: dict[str, Any]
    what: str
    where: tuple[str, ...]
    expires: int


@dataclass(frozen=True)
class SigningService:
    """Signs for one bucket. `root` bounds it, whatever a token says; empty for the whole bucket."""

    bucket: Bucket
    root: str
    credentials: Callable[[], Credentials]
    clock: Callable[[], datetime]
    longest: timedelta

    def get(self, allowance: Allowance, keys: Sequence[str], seconds: int | None, filename: str | None) -> Signed:
        """Presign a GET of each key."""
        for key in keys:
            self._admit(allowance, "GET", key)
        signer, expires = self._signer(allowance, seconds)
        query = {}
        if filename:
            query["response-content-disposition"] = content_disposition(filename)
        urls = [{"key": key, "url": signer.presign("GET", key, expires - signer.now, query=query)} for key in keys]
        return _signed({"urls": urls}, "GET", tuple(keys), expires)

    def put(self, allowance: Allowance, key: str, size: int, headers: dict[str, str], seconds: int | None) -> Signed:
        """Presign a PUT of exactly `size` bytes: the length is signed, for a PUT can't be given a range."""
        self._admit(allowance, "PUT", key)
        if size > _limit(allowance, None):
            raise Refused(f"the token allows objects of up to {allowance.max_bytes} bytes")
        signer, expires = self._signer(allowance, seconds)
        sent = {"content-length": str(size), **headers}
        url = signer.presign("PUT", key, expires - signer.now, headers=sent)
        return _signed({"url": url, "headers": sent}, "PUT", (key,), expires)

    def post(
        self, allowance: Allowance, key: str | None, prefix: str | None, max_bytes: int | None, seconds: int | None
    ) -> Signed:
        """Sign a POST policy for one key, or for whatever is below a prefix."""
        if key is not None and prefix is not None:
            raise BadInput("a form is for a key or for a prefix, not both")
        bound = _prefix(allowance, prefix) if key is None else key
        self._admit(allowance, "POST", bound, folder=key is None)
        signer, expires = self._signer(allowance, seconds)
        limit = _limit(allowance, max_bytes)
        document = policy_document(self.bucket.name, bound, expires=expires, max_bytes=limit, one_key=key is not None)
        target = signer.sign_policy(bound, document)
        fields = {**target.fields, "policy": base64.b64encode(target.policy.encode()).decode()}
        if key is not None:
            fields["key"] = key
        body = {"url": target.url, "prefix": bound, "fields": fields, "max_bytes": limit}
        return _signed(body, "POST", (bound,), expires)

    def grant(
        self, allowance: Allowance, prefix: str | None, max_bytes: int | None, seconds: int | None
    ) -> tuple[Grant, Signed]:
        """Sign a whole grant: for a task's own two prefixes if the token is for these, else below one prefix."""
        scope = self._scope(allowance, prefix)
        for bound in (scope.outputs, scope.status):
            self._admit(allowance, "POST", bound, folder=True)
        signer, expires = self._signer(allowance, seconds)
        grant = sign_scope(
            signer,
            scope,
            expires=expires,
            max_bytes=_limit(allowance, max_bytes),
            status_bytes=min(MAX_STATUS_BYTES, allowance.max_bytes),
        )
        return grant, _signed({}, "grant", (scope.outputs, scope.status), expires)

    def _scope(self, allowance: Allowance, prefix: str | None) -> GrantScope:
        for outputs in allowance.prefixes if prefix is None else ():
            found = parse_outputs(outputs)
            if found is not None:
                status = found.keys.status(found.task, found.attempt)
                if status in allowance.prefixes:
                    return GrantScope(found.keys.job, found.task, found.attempt, outputs, status)
        return GrantScope.of_prefix(_prefix(allowance, prefix), self.bucket.name)

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

    def _signer(self, allowance: Allowance, seconds: int | None) -> tuple[RequestSigner, datetime]:
        """What signs, and until when: the earliest of all ends, in whole seconds."""
        credentials, now = self.credentials(), self.clock().replace(microsecond=0)
        ends = [
            now + min(timedelta(seconds=DEFAULT_SECONDS if seconds is None else seconds), self.longest),
            from_seconds(allowance.expires),
        ]
        if credentials.expires is not None:
            ends.append(credentials.expires.replace(microsecond=0))
        if min(ends) <= now:
            raise Expiry("the service's credentials have expired", hint="tell its operator")
        return RequestSigner(self.bucket, credentials, now), min(ends)


def _prefix(allowance: Allowance, prefix: str | None) -> str:
    """The prefix that was asked for, or the token's only one."""
    if prefix is None and len(allowance.prefixes) == 1:
        return allowance.prefixes[0]
    if prefix is None:
        raise BadInput("the token covers several prefixes, or none", hint="name one of them in `prefix`")
    return prefix


def _limit(allowance: Allowance, max_bytes: int | None) -> int:
    """The largest object, in bytes: what was asked for, as far as the token and S3 allow it."""
    return min(allowance.max_bytes, MAX_OBJECT_BYTES if max_bytes is None else max_bytes, MAX_OBJECT_BYTES)


def _signed(body: dict[str, Any], what: str, where: tuple[str, ...], expires: datetime) -> Signed:
    return Signed({**body, "expires": iso(expires)}, what, where, to_seconds(expires))
