"""What a job's requests are signed with: what its VMs may do, and what we upload ourselves to prove something.

Every grant of a job is signed by `vm_signer`: those of a launch, a retry and a renewal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.grant import Target
from provisioner.plan.grants import GrantSigner
from provisioner.plan.plan import Plan
from provisioner.providers.base import Provider
from provisioner.s3.put_slots import SlotSigner
from provisioner.s3.signing import Bucket, Credentials, RequestSigner

PROOF_LIFE = timedelta(minutes=5)  # of a signature that we use at once


def vm_signer(provider: Provider, plan: Plan, credentials: Credentials, now: datetime) -> GrantSigner:
    """Return what signs a plan's grants, for the bucket's address as the VMs of `provider` reach it."""
    seen = dataclasses.replace(plan.bucket, url=provider.guest_url(plan.bucket.url))
    return GrantSigner(plan, credentials, now, seen)


@dataclass(frozen=True)
class ProofSigner:
    """Signs an upload that we make ourselves as a VM would, to see what becomes of it, for the store as we reach it."""

    bucket: Bucket
    credentials: Credentials
    now: datetime
    life: timedelta = PROOF_LIFE

    def target(self, prefix: str, name: str, *, by_put: bool, max_bytes: int) -> Target:
        """Sign the upload of `name` below `prefix`: a form for at most `max_bytes`, or a presigned PUT."""
        if by_put:
            return SlotSigner(self.bucket, self.credentials, self.now, self.life).target(prefix, [name])
        signer = RequestSigner(self.bucket, self.credentials, self.now)
        return signer.sign_prefix(prefix, expires=self.now + self.life, max_bytes=max_bytes)
