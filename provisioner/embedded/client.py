"""Speaks to the embedded store with the operator's keys, as far as starting it and making buckets goes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provisioner.errors import FreepostError

if TYPE_CHECKING:
    from provisioner.boto import BotoClient

REGION = "us-east-1"
_READY_BUCKET, _READY_KEY, _READY_BODY = "freepost-ready", "ready", b"ready\n"


@dataclass(frozen=True)
class Running:
    """A live store and what a client needs to speak to it. `bucket` exists."""

    endpoint_url: str
    region: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int


@contextlib.contextmanager
def connect(running: Running) -> Iterator[BotoClient]:
    """Give an S3 client of the store, and close it. One try a request, and no proxy: it is on loopback."""
    from provisioner.boto import client_config, make_session

    # The operator's own profile and configuration have no say here: a broken one must not stop the embedded store.
    ours = {"profile": (None, None, None, None), "config_file": (None, None, os.devnull, None)}
    client = make_session(variables=ours).create_client(
        "s3",
        endpoint_url=running.endpoint_url,
        region_name=running.region,
        aws_access_key_id=running.access_key,
        aws_secret_access_key=running.secret_key,
        config=client_config(connect_timeout=2, read_timeout=10, proxies={}, s3={"addressing_style": "path"}),
    )
    try:
        yield client
    finally:
        client.close()


def why_unready(client: BotoClient) -> str | None:
    """Read a marker back, writing it first on a new store. Return why that can't be done yet, or None.

    That the port answers is not enough: for some 50 ms after a restart the server says InternalError to a GET of what
    it has, because its volumes have not been announced yet. One volume that is known means that all are.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from provisioner.boto import error_code

    try:
        client.get_object(Bucket=_READY_BUCKET, Key=_READY_KEY)["Body"].read()
    except ClientError as error:
        code = error_code(error)
        if code not in ("NoSuchBucket", "NoSuchKey"):
            return code
    except BotoCoreError as error:
        return type(error).__name__
    else:
        return None
    try:
        make_bucket(client, _READY_BUCKET)
        client.put_object(Bucket=_READY_BUCKET, Key=_READY_KEY, Body=_READY_BODY)
    except (FreepostError, BotoCoreError, ClientError) as error:
        return type(error).__name__
    return None


def make_bucket(client: BotoClient, name: str) -> None:
    """Make a bucket unless it is there. Raise BadInput for a bad name, else as `s3.answers.error_from_boto`."""
    from botocore.exceptions import BotoCoreError, ClientError

    from provisioner.boto import error_code
    from provisioner.s3.answers import bad_bucket_name, error_from_boto

    try:
        client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        code = error_code(error) if isinstance(error, ClientError) else ""
        if code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            return
        if code == "InvalidBucketName":
            raise bad_bucket_name(name) from None
        raise error_from_boto(error, f"make the bucket {name}", bucket=name) from None
