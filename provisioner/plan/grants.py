"""From a Plan and credentials to the grant of one task: what it may upload and presigned GETs of its inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.grant import Grant, Target, dump
from provisioner.clock import iso
from provisioner.plan import put_outputs
from provisioner.plan.plan import Plan, StagedInput, TaskPlan
from provisioner.s3.grants import GrantScope, make_grant
from provisioner.s3.put_slots import SlotSigner
from provisioner.s3.signing import MAX_STATUS_BYTES, Bucket, Credentials, RequestSigner


@dataclass(frozen=True)
class GrantSigner:
    """Signs the grants of a plan, as of `now`. `bucket` is as the VM reaches it, the plan's own if None."""

    plan: Plan
    credentials: Credentials
    now: datetime
    bucket: Bucket | None = None

    @property
    def signer(self) -> RequestSigner:
        """What signs each request."""
        return RequestSigner(self.bucket or self.plan.bucket, self.credentials, self.now)

    def grant(self, task: TaskPlan, *, uploads: Mapping[str, str] | None = None, next_renewal: int = 1) -> Grant:
        """Sign everything that `task`, or each VM of a group, may do.

        `uploads` has the UploadId of each output that may take several PUTs, by key; without it those PUTs are signed
        for an upload that isn't there. `next_renewal` is the number of the renewed grant that will follow this one, in
        a job that renews them.
        """
        plan, reach = self.plan, self.plan.download_lifetime(self.credentials.expires, self.now)
        keys, whose = plan.keys, (task.key_segment, task.attempt)
        scope = GrantScope(plan.job, task.task, task.attempt, keys.outputs(*whose), keys.status(*whose))
        mailbox = None
        if plan.spec.renew:
            url = self.signer.presign("GET", keys.mailbox_key(task.task, task.attempt, next_renewal), reach)
            mailbox = {"url": url, "until": iso(plan.deadline)}
        return make_grant(
            scope,
            plan.expires,
            self._slots(task, scope, uploads or {}) if plan.by_put else self._policies(task, scope),
            inputs=[{**self._download(item, reach), "path": item.path, "mode": item.mode} for item in plan.downloads],
            mailbox=mailbox,
            agent=self._download(plan.archive, reach) if plan.archive else None,
        )

    def stub(self, task: TaskPlan, grant: Grant) -> bytes:
        """What the user-data holds instead of a grant that lies in the bucket (`agent/boot.py`)."""
        data = dump(grant).encode()
        key = self.plan.keys.grant(task.task, task.attempt)
        whole = StagedInput("the grant", key, "0400", len(data), hashlib.sha256(data).hexdigest())
        source = self._download(whole, self.plan.deadline - self.now)
        return json.dumps(source, separators=(",", ":"), sort_keys=True).encode()

    def _download(self, item: StagedInput, lifetime: timedelta) -> dict[str, Any]:
        """What a VM needs to fetch an object, and to know that it is the right one."""
        url = self.signer.presign("GET", item.key, lifetime)
        return {"url": url, "size": item.size, **({"sha256": item.sha256} if item.sha256 else {})}

    def _policies(self, task: TaskPlan, scope: GrantScope) -> tuple[Target, Target]:
        documents = self.plan.policies(task)
        return (
            self.signer.sign_policy(scope.outputs, documents["outputs"]),
            self.signer.sign_policy(scope.status, documents["status"]),
        )

    def _slots(self, task: TaskPlan, scope: GrantScope, uploads: Mapping[str, str]) -> tuple[Target, Target]:
        signer = SlotSigner(self.signer.bucket, self.credentials, self.now, self.plan.expires - self.now)
        spec = self.plan.spec
        begun = {key: uploads.get(key, put_outputs.UNKNOWN) for key in large_keys(self.plan, task)}
        sizes = put_outputs.multipart_outputs(spec)
        large = {name: (size, begun[scope.outputs + name]) for name, size in sizes.items()}
        outputs = signer.target(scope.outputs, put_outputs.output_names(spec), max_bytes=spec.max_bytes, large=large)
        status = signer.target(scope.status, put_outputs.STATUS_NAMES, max_bytes=2 * MAX_STATUS_BYTES)
        return outputs, status._replace(fields={**status.fields, "abort": signer.aborts(begun)})


def large_keys(plan: Plan, task: TaskPlan) -> list[str]:
    """The keys of the outputs that may take several PUTs, each of which wants an upload begun."""
    prefix = plan.keys.outputs(task.task, task.attempt)
    return [prefix + name for name in put_outputs.multipart_outputs(plan.spec)] if plan.by_put else []
