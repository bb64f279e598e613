"""POST policies and presigned URLs: pure functions of a bucket, credentials, a clock and what may be done.

The document is AWS's "Creating a POST policy" (sigv4-HTTPPOSTConstructPolicy), the signature SigV4 as botocore makes
it; botocore reads the clock itself, so its signer is driven here with the caller's time, and a test holds the result
equal to ``generate_presigned_post``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4PostAuth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from agent.grant import Target
from provisioner.clock import iso, show_time
from provisioner.errors import BadInput, Expiry
from provisioner.units import LONGEST_SIGNATURE

MAX_LIFETIME = timedelta(seconds=LONGEST_SIGNATURE)
MAX_STATUS_BYTES = 1 << 20  # an event, a log segment or a manifest
ALGORITHM = "AWS4-HMAC-SHA256"
CHECKSUM = ["starts-with", "$x-amz-checksum-sha256", ""]  # the condition: a form carries a checksum, whichever


@dataclass(frozen=True)
class Credentials:
    """What signs. `expires` is the end of a session (None for a long-lived key); secrets stay out of the repr."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: datetime | None = None


@dataclass(frozen=True)
class Bucket:
    """A bucket as a client addresses it: `url` ends in a slash, and ``url + key`` is an object."""

    name: str
    region: str
    url: str


def bucket_url(endpoint: str, bucket: str, *, addressing: str = "auto", custom: bool = False) -> str:
    """Return the URL of `bucket` at `endpoint`, by path or by virtual host.

    ``auto`` is virtual-host style on AWS and path style on a custom endpoint, and path style for a name with dots,
    which no wildcard certificate covers (AWS, "Virtual hosting of general purpose buckets").
    """
    parts = urlsplit(endpoint)
    if addressing == "virtual" or (addressing == "auto" and not custom and "." not in bucket):
        return f"{parts.scheme}://{bucket}.{parts.netloc}/"
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/{bucket}/"


def check_lifetime(credentials: Credentials, *, now: datetime, needed_until: datetime, what: str, shorten: str) -> None:
    """Raise Expiry when what is signed now would die before `needed_until`, naming both times.

    A signature dies with the session that made it, whatever expiry it states. `what` needs the signature, and would
    need it for less time if its user were to `shorten` an option or a key of the job.
    """
    ends = credentials.expires
    if ends is not None and ends < needed_until:
        message = f"the signing credentials expired at {show_time(ends)}"
        if ends >= now:
            until = show_time(needed_until)
            message = f"the signing credentials expire at {show_time(ends)}, but {what} needs them until {until}"
        raise Expiry(message, hint=f"sign in again for a longer session, use a longer-lived key, or shorten {shorten}")
    if needed_until - now > MAX_LIFETIME:
        message = (
            f"{what} needs a signature until {show_time(needed_until)}; "
            f"SigV4 allows at most 7 days, until {show_time(now + MAX_LIFETIME)}"
        )
        raise BadInput(message, hint=f"shorten {shorten}")


def content_disposition(filename: str) -> str:
    """Return the Content-Disposition that makes a browser save under `filename`, in any script (RFC 6266, RFC 8187)."""
    plain = re.sub(r'[^ -~]|["%\\]', "_", filename)
    extended = f"; filename*=UTF-8''{quote(filename, safe='')}" if plain != filename else ""
    return f'attachment; filename="{plain}"{extended}'


def policy_document(
    bucket: str,
    prefix: str,
    *,
    expires: datetime,
    max_bytes: int,
    min_bytes: int = 0,
    one_key: bool = False,
    extra: Sequence[object] = (CHECKSUM,),
) -> dict[str, Any]:
    """Return the unsigned policy: any key below `prefix`, or with `one_key` that very key, and a bounded size.

    `extra` conditions are appended as they are; the agent's policies ask for a checksum, which a plain form can't
    compute. The signing conditions (x-amz-…) are added by `RequestSigner.sign_policy`.
    """
    return {
        "expiration": iso(expires),
        "conditions": [
            {"bucket": bucket},
            {"key": prefix} if one_key else ["starts-with", "$key", prefix],
            ["content-length-range", min_bytes, max_bytes],
            *extra,
        ],
    }


@dataclass(frozen=True)
class RequestSigner:
    """Signs what may be done with one bucket, as of `now`."""

    bucket: Bucket
    credentials: Credentials
    now: datetime

    def sign_policy(self, prefix: str, document: Mapping[str, Any]) -> Target:
        """Sign a policy document: return the target of a grant, with the policy in clear and every field but `key`."""
        auth = S3SigV4PostAuth(_boto(self.credentials), "s3", self.bucket.region)
        request = _request("POST", self.bucket.url, self.now)
        fields = {
            "x-amz-algorithm": ALGORITHM,
            "x-amz-credential": auth.scope(request),
            "x-amz-date": request.context["timestamp"],
        }
        if self.credentials.token is not None:
            fields["x-amz-security-token"] = self.credentials.token
        conditions = [*document["conditions"], *({name: value} for name, value in fields.items())]
        text = json.dumps({**document, "conditions": conditions}, separators=(",", ":"))
        fields["x-amz-signature"] = auth.signature(base64.b64encode(text.encode()).decode(), request)
        return Target(self.bucket.url, prefix, text, fields)

    def sign_prefix(self, prefix: str, *, expires: datetime, max_bytes: int) -> Target:
        """Sign the plain policy for `prefix`: any key below it, at most `max_bytes` each, with a checksum."""
        document = policy_document(self.bucket.name, prefix, expires=expires, max_bytes=max_bytes)
        return self.sign_policy(prefix, document)

    def presign(
        self,
        method: str,
        key: str,
        lifetime: timedelta,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> str:
        """Return the URL of one presigned request. Raise BadInput for a `lifetime` that SigV4 doesn't allow.

        It allows `method` on `key` until `now + lifetime`, with any payload. Whoever uses it must send exactly
        `headers`. `query` holds sub-resources and ``response-…`` overrides (AWS, "Authenticating requests: using query
        parameters").
        """
        if not timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
            raise BadInput(f"a presigned URL lives from 1 second to 7 days, not {int(lifetime.total_seconds())} s")
        url = self.bucket.url + quote(key, safe="/~")
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        request = _request(method, url, self.now)
        for name, value in (headers or {}).items():
            request.headers[name] = value
        seconds = int(lifetime.total_seconds())
        auth = S3SigV4QueryAuth(_boto(self.credentials), "s3", self.bucket.region, expires=seconds)
        # The steps of SigV4Auth.add_auth, which differs only in reading the wall clock.
        auth._modify_request_before_signing(request)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        auth._inject_signature_to_request(request, signature)  # type: ignore[attr-defined]  # noqa: SLF001 - see above
        return str(request.url)


def url_expiry(url: str) -> datetime:
    """Return when a presigned URL ends: SigV4 says it in the query. Raise ValueError where it doesn't."""
    query = parse_qs(urlsplit(url).query)
    try:
        signed = datetime.strptime(query["X-Amz-Date"][0], SIGV4_TIMESTAMP).replace(tzinfo=timezone.utc)
        return signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
    except KeyError:
        raise ValueError("the URL doesn't say when it ends") from None


def amz_date(moment: datetime) -> str:
    """Write a time as SigV4 does: ``20261127T170000Z``."""
    return moment.astimezone(timezone.utc).strftime(SIGV4_TIMESTAMP)


def checksum_sha256(data: bytes) -> str:
    """The value of an ``x-amz-checksum-sha256`` field: base64 of the digest."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _request(method: str, url: str, now: datetime) -> AWSRequest:
    request = AWSRequest(method=method, url=url)
    request.context["timestamp"] = amz_date(now)
    return request


def _boto(credentials: Credentials) -> BotoCredentials:
    return BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
