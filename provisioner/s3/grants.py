"""Puts signed targets together to the grant of one VM, or of whoever may push below a prefix. Pure.

What the VMs of a job are granted is told in `plan.grants`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.grant import Grant, Target
from provisioner.clock import to_seconds
from provisioner.s3.signing import MAX_STATUS_BYTES, RequestSigner

STATUS_FOLDER = ".freepost/"  # below a prefix that isn't a job's: where `agent push` writes its manifest


@dataclass(frozen=True)
class GrantScope:
    """Whom a grant is for, and the two prefixes below which it may write."""

    job: str
    task: str
    attempt: int
    outputs: str
    status: str

    @classmethod
    def of_prefix(cls, prefix: str, bucket: str) -> GrantScope:
        """The scope of a prefix that isn't a job's; it is named after its last folder, or after the bucket."""
        name = prefix.rstrip("/").rpartition("/")[2] or bucket
        return cls(name, "0", 1, prefix, prefix + STATUS_FOLDER)


def make_grant(
    scope: GrantScope,
    expires: datetime,
    targets: tuple[Target, Target],
    *,
    inputs: Sequence[dict[str, Any]] = (),
    mailbox: dict[str, Any] | None = None,
    agent: dict[str, Any] | None = None,
) -> Grant:
    """Make a grant of what was signed: the targets of the outputs and of the status, in this order."""
    names = scope.job, scope.task, scope.attempt
    return Grant(*names, to_seconds(expires), *targets, list(inputs), mailbox, agent)


def sign_scope(
    signer: RequestSigner,
    scope: GrantScope,
    *,
    expires: datetime,
    max_bytes: int,
    status_bytes: int = MAX_STATUS_BYTES,
) -> Grant:
    """Sign a grant of one POST policy for each prefix of a scope."""
    outputs = signer.sign_prefix(scope.outputs, expires=expires, max_bytes=max_bytes)
    status = signer.sign_prefix(scope.status, expires=expires, max_bytes=status_bytes)
    return make_grant(scope, expires, (outputs, status))
