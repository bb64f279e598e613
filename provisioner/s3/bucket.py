"""The bucket, through botocore: every request of the operator's side to a store is in this module.

Methods do one thing once and raise `provisioner.errors` only. `provisioner.retry` wraps them, so each may be called
again after it failed half-way: bodies are bytes or files that are opened anew, and a `Download` knows how far it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import botocore.exceptions as boto_errors
from botocore.credentials import ReadOnlyCredentials
from botocore.session import Session

from provisioner.boto import BotoClient, client_config, error_code, expiry, make_session
from provisioner.errors import BadInput, Integrity, NoCredentials, Refused, Unsupported
from provisioner.retry import Download
from provisioner.s3.answers import error_from_boto
from provisioner.s3.signing import Bucket, Credentials, bucket_url
from provisioner.s3url import StoreSpec, show_url

REGION_HEADER = "x-amz-bucket-region"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    key: str
    size: int
    modified: datetime


class Store:
    """One bucket and prefix. Make it with `open_store`."""

    def __init__(self, client: BotoClient, bucket: Bucket, prefix: str, credentials: Credentials) -> None:
        self._client = client
        self.bucket = bucket
        self.prefix = prefix
        self.credentials = credentials

    def __repr__(self) -> str:
        return f"Store({show_url(self.bucket.name, self.prefix)})"

    def list(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        """Every object below `prefix` whose key sorts after `after`, in key order, 1,000 a request."""
        with self._errors(f"list {show_url(self.bucket.name, prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.name, Prefix=prefix, **({"StartAfter": after} if after else {})
            )
            return [
                ObjectInfo(item["Key"], item["Size"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", ())
            ]

    def region(self) -> str:
        """The region that the bucket says it is in; empty where the store doesn't say. Raise NotFound without one."""
        with self._errors(f"ask for the bucket {self.bucket.name}"):
            try:
                answer = self._client.head_bucket(Bucket=self.bucket.name)
            except boto_errors.ClientError as error:
                answer = error.response  # one elsewhere, or that may not be listed, says where all the same
                if REGION_HEADER not in answer["ResponseMetadata"].get("HTTPHeaders", {}):
                    raise
            return str(answer["ResponseMetadata"]["HTTPHeaders"].get(REGION_HEADER, ""))

    def folders(self, prefix: str) -> Sequence[str]:
        """The names directly below `prefix` that have something below them."""
        with self._errors(f"list {show_url(self.bucket.name, prefix)}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.name, Prefix=prefix, Delimiter="/"
            )
            return [item["Prefix"][len(prefix) : -1] for page in pages for item in page.get("CommonPrefixes", ())]

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raise NotFound when it isn't there."""
        with self._errors(f"read {key}"):
            return int(self._client.head_object(Bucket=self.bucket.name, Key=key)["ContentLength"])

    def get(self, key: str) -> bytes:
        """Return a whole object. Raise NotFound when it isn't there."""
        with self._errors(f"read {key}"):
            body: bytes = self._client.get_object(Bucket=self.bucket.name, Key=key)["Body"].read()
            return body

    def fetch(self, key: str, into: Download, *, chunk: int = 1 << 20) -> None:
        """Read what has not come yet of an object, in pieces of up to `chunk` bytes.

        Raise Integrity when the object is no longer the one whose first bytes have come.
        """
        if into.received == into.size:
            return
        rest = {"Range": f"bytes={into.received}-", "IfMatch": into.etag} if into.received else {}
        with self._errors(f"read {key}"):
            answer = self._client.get_object(Bucket=self.bucket.name, Key=key, **rest)
            start = answer.get("ContentRange", "bytes 0-").removeprefix("bytes ").partition("-")[0]
            if into.received and (start, answer["ETag"]) != (str(into.received), into.etag):  # it ignores headers
                raise Integrity(f"the store did not send the rest of {key}", hint="run the same command again")
            into.size = into.received + answer["ContentLength"]
            into.etag = answer["ETag"]
            for piece in answer["Body"].iter_chunks(chunk):
                into.take(piece)
                into.received += len(piece)

    def put(self, key: str, data: bytes, *, content_type: str = "application/json") -> None:
        """Write a small object."""
        with self._errors(f"write {key}"):
            self._client.put_object(Bucket=self.bucket.name, Key=key, Body=data, ContentType=content_type)

    def upload(self, key: str, source: Path) -> None:
        """Write an object of any size from a file, in parts where it is large. Raise BadInput if it can't be opened."""
        try:
            file = source.open("rb")
        except OSError as error:
            raise BadInput(f"{source} can't be read: {error.strerror}") from None
        from boto3.s3.transfer import TransferConfig, create_transfer_manager

        with file, self._errors(f"write {key}"), create_transfer_manager(self._client, TransferConfig()) as manager:
            manager.upload(file, self.bucket.name, key).result()

    def uploads(self, prefix: str) -> Sequence[tuple[str, str]]:
        """The uploads in parts that were begun below `prefix` and not completed: keys and UploadIds, oldest first."""
        with self._errors("list uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket.name, Prefix=prefix
            )
            try:
                found = [item for page in pages for item in page.get("Uploads", ())]
            except boto_errors.ClientError as error:
                if error_code(error) != "NoSuchUpload":  # rclone's word for none at all
                    raise
                found = []
            return [(item["Key"], item["UploadId"]) for item in sorted(found, key=lambda item: str(item["Initiated"]))]

    def begin_upload(self, key: str) -> str:
        """Begin an upload in parts. Return its UploadId. One whose answer was lost stays begun, without any part."""
        with self._errors(f"begin an upload of {key}"):
            return str(self._client.create_multipart_upload(Bucket=self.bucket.name, Key=key)["UploadId"])

    def abort_upload(self, key: str, upload: str) -> None:
        """Give up an upload in parts, and what was stored of it. Raise NotFound when there is none."""
        with self._errors(f"give up the upload of {key}"):
            self._client.abort_multipart_upload(Bucket=self.bucket.name, Key=key, UploadId=upload)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, 1,000 a request; keys that aren't there are ignored."""
        with self._errors("delete objects"):
            for start in range(0, len(keys), 1000):
                batch = [{"Key": key} for key in keys[start : start + 1000]]
                answer = self._client.delete_objects(Bucket=self.bucket.name, Delete={"Objects": batch, "Quiet": True})
                for error in answer.get("Errors", ()):
                    message = f"the store refused to delete {error['Key']}: {error['Code']}"
                    raise Refused(message)

    def cors(self) -> Sequence[Mapping[str, Any]]:
        """The bucket's CORS rules, as S3 gives them; none for a bucket without."""
        with self._errors("read the bucket's CORS rules"):
            try:
                rules: Sequence[Mapping[str, Any]] = self._client.get_bucket_cors(Bucket=self.bucket.name)["CORSRules"]
            except boto_errors.ClientError as error:
                if error_code(error) != "NoSuchCORSConfiguration":
                    raise
                return ()
            return rules

    def set_cors(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the bucket's CORS rules."""
        with self._errors("set the bucket's CORS rules"):
            self._client.put_bucket_cors(Bucket=self.bucket.name, CORSConfiguration={"CORSRules": list(rules)})

    def policy(self) -> str | None:
        """Return the bucket policy, JSON; None when there is none. Raise Refused when the store has no such thing."""
        with self._errors("read the bucket policy"):
            try:
                text = str(self._client.get_bucket_policy(Bucket=self.bucket.name)["Policy"])
            except boto_errors.ClientError as error:
                if error_code(error) == "NoSuchBucketPolicy":
                    return None
                raise
            if not text.lstrip().startswith("{"):  # rclone answers with a listing
                raise Unsupported("the store has no bucket policies", hint="what was signed lives until it expires")
            return text

    def set_policy(self, text: str | None) -> None:
        """Replace the bucket policy; None removes it."""
        with self._errors("write the bucket policy"):
            if text is None:
                self._client.delete_bucket_policy(Bucket=self.bucket.name)
            else:
                self._client.put_bucket_policy(Bucket=self.bucket.name, Policy=text)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (boto_errors.BotoCoreError, boto_errors.ClientError) as error:
            raise error_from_boto(error, doing, bucket=self.bucket.name) from None


def open_store(spec: StoreSpec, *, access_key: str | None = None, secret_key: str | None = None) -> Store:
    """Connect to the bucket that a spec names, with botocore's own credential chain unless keys are given.

    The signing endpoint is always the region's own: the global one redirects young buckets, and a redirected POST
    fails. The bucket's region is asked for where the spec has none. Credentials are frozen here, so that one
    launch signs everything with the same key.
    """
    session, found = _find_credentials(spec, access_key, secret_key)
    if found is None:
        raise NoCredentials(
            "there are no credentials to sign with",
            hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use --local",
        )
    frozen, ends = found
    region = spec.region or (session.get_config_variable("region") if spec.endpoint_url else None)
    if region is None:
        region = DEFAULT_REGION if spec.endpoint_url else _bucket_region(session, spec.bucket)
    client = _client(session, spec, region)
    credentials = Credentials(str(frozen.access_key), str(frozen.secret_key), frozen.token, ends)
    url = bucket_url(
        client.meta.endpoint_url, spec.bucket, addressing=spec.addressing, custom=spec.endpoint_url is not None
    )
    return Store(client, Bucket(spec.bucket, region, url), spec.prefix, credentials)


def _find_credentials(
    spec: StoreSpec, access_key: str | None, secret_key: str | None
) -> tuple[Session, tuple[ReadOnlyCredentials, datetime | None] | None]:
    """The session, and the credentials that it has, if any, with their end."""
    try:
        session = make_session(spec.profile)
        if access_key and secret_key:
            session.set_credentials(access_key, secret_key)
        found = session.get_credentials()
        return session, None if found is None else (found.get_frozen_credentials(), expiry(found))
    except boto_errors.BotoCoreError as error:
        raise error_from_boto(error, "find credentials", bucket=spec.bucket) from None


def _client(session: Session, spec: StoreSpec, region: str) -> BotoClient:
    config = client_config(
        signature_version="s3v4",
        max_pool_connections=32,
        s3={"addressing_style": spec.addressing, "us_east_1_regional_endpoint": "regional"},
        # Stores other than AWS don't all know the trailing checksums that boto3 adds by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return session.create_client("s3", region_name=region, endpoint_url=spec.endpoint_url, config=config)
    except (boto_errors.BotoCoreError, ValueError):  # a region or an endpoint that no URL can be made of
        where = repr(spec.endpoint_url) if spec.endpoint_url else f"the region {region!r}"
        raise BadInput(f"no store can be at {where}", hint="correct its endpoint URL or region") from None


def _bucket_region(session: Session, bucket: str) -> str:
    near = session.get_config_variable("region") or DEFAULT_REGION
    client: BotoClient = _client(session, StoreSpec(bucket), near)
    try:
        answer = client.head_bucket(Bucket=bucket)
    except boto_errors.ClientError as error:
        # A bucket elsewhere answers 301 or 403, and says where all the same.
        answer = error.response
        if REGION_HEADER not in answer["ResponseMetadata"].get("HTTPHeaders", {}):
            raise error_from_boto(error, "find the bucket's region", bucket=bucket) from None
    except boto_errors.BotoCoreError as error:
        raise error_from_boto(error, "find the bucket's region", bucket=bucket) from None
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get(REGION_HEADER, DEFAULT_REGION))
