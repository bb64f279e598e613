"""IAM's policies about a bucket, as documents. Pure: what they are for is told where they are made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from provisioner.s3.signing import Bucket

POLICY_VERSION = "2012-10-17"  # of IAM's policy language, in which ${…} are variables


def statement(effect: str, action: str | Sequence[str], resources: Sequence[str], **more: str) -> dict[str, Any]:
    """Return a statement that gives `effect`, ``Allow`` or ``Deny``; `more` are further elements, such as its Sid."""
    allowed = action if isinstance(action, str) else list(action)
    return {**more, "Effect": effect, "Action": allowed, "Resource": list(resources)}


def below(bucket: Bucket, prefix: str) -> str:
    """Return the resource of every object below a prefix."""
    return one(bucket, prefix) + "*"


def one(bucket: Bucket, key: str) -> str:
    """Return the resource of one object."""
    return f"{arn(bucket)}/{literal(key)}"


def arn(bucket: Bucket) -> str:
    """The bucket's ARN; China and GovCloud are partitions of their own."""
    china, gov = bucket.region.startswith("cn-"), bucket.region.startswith("us-gov-")
    return f"arn:{'aws-cn' if china else 'aws-us-gov' if gov else 'aws'}:s3:::{bucket.name}"


def literal(key: str) -> str:
    """A key in a policy's own words: ``*``, ``?`` and ``$`` mean themselves (IAM, "Policy variables")."""
    return re.sub(r"[*?$]", lambda found: f"${{{found[0]}}}", key)
