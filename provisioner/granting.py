"""Makes what a VM is given: its grant, signed for the store as it will see it, and the user-data around it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.grant import Grant, Target
from provisioner import slots, userdata
from provisioner.errors import BadInput
from provisioner.grants import large_keys, sign_grant, stub
from provisioner.plan import Plan, TaskPlan, iso
from provisioner.preflight import Poster
from provisioner.providers.base import Provider, guest_url
from provisioner.signer import Signer
from provisioner.store import Store
from provisioner.userdata import UserData

_PROOF = timedelta(minutes=15)  # how long the signature of one event of ours lives


@dataclass(frozen=True)
class Granter:
    """What grants are made with: parts of a `Launcher`."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    signer: Signer
    forms: Poster

    def render(self, plan: Plan, task: TaskPlan, *, use: bool = False) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data. Raise BadInput, with the ledger, when it is too large.

        To `use` it, what its uploads need is begun in the bucket, and a grant that lies apart is put there.
        """
        grant, apart = self._sign(plan, task, self.clock(), self._begun(plan, task) if use else {})
        user_data = userdata.render(plan, task, grant, apart)
        if len(user_data.data) > plan.user_data_limit:
            how = " as it is" if plan.raw else ""
            message = (
                f"the user-data has {len(user_data.data)} bytes{how}; {plan.provider} takes {plan.user_data_limit}"
            )
            packed = "written" if plan.raw else "compressed"
            ledger = [f"{line.section}: {line.size} bytes, {line.cost} {packed}" for line in user_data.ledger()]
            hint = "shorten run.command or run.env, or move them to an input"
            if plan.raw:
                hint += f"; or leave out --raw: gzipped it has {len(userdata.gzipped(user_data.plain))} bytes"
            raise BadInput(message, hint=hint, faults=ledger)
        if use:
            for key, data in user_data.beside.items():
                self.store.put(key, data)
        return grant, user_data

    def made_to_fit(self, plan: Plan) -> Plan:
        """Move what costs most from the user-data to the bucket until it fits, or nothing is left to move."""
        task = plan.tasks[-1]
        while True:
            fitted = userdata.fit(plan, task, *self._sign(plan, task, plan.created))
            if fitted == plan:
                return plan
            plan = fitted

    def announce(self, plan: Plan, grant: Grant) -> None:
        """Store the event `launched` with what the VM will use, at the store's address as we see it."""
        event = {
            "event": "launched",
            "time": iso(self.clock()),
            "job": grant.job,
            "task": grant.task,
            "attempt": grant.attempt,
            "provider": self.provider.name,
        }
        self.forms.post(self._seen_here(plan, grant), "launched", json.dumps(event).encode())

    def _seen_here(self, plan: Plan, grant: Grant) -> Target:
        """The status target of a grant, for our address of the store: the VM's may be one that only it can reach."""
        url = self.store.bucket.url
        if url == grant.status.url or not plan.by_put:
            return Target(url, *grant.status[1:])
        # A PUT's signature is for one address.
        credentials = self.signer.credentials(plan, plan.task(grant.task))
        own = slots.Signing(self.store.bucket, credentials, self.clock(), _PROOF)
        return own.target(grant.status.prefix, ["launched"])

    def _begun(self, plan: Plan, task: TaskPlan) -> dict[str, str]:
        """The UploadId of each output that may take several PUTs: begun now, or by an earlier launch of the task."""
        keys = large_keys(plan, task)
        found = dict(self.store.uploads(plan.keys.outputs(task.task, task.attempt))) if keys else {}
        return {key: found.get(key) or self.store.begin_upload(key) for key in keys}

    def _sign(
        self, plan: Plan, task: TaskPlan, now: datetime, uploads: Mapping[str, str] | None = None
    ) -> tuple[Grant, bytes]:
        """Sign the grant of a task, for the bucket's address as the VM will see it; and its stub, if it lies apart."""
        seen = dataclasses.replace(plan.bucket, url=guest_url(self.provider, plan.bucket.url))
        credentials = self.signer.credentials(plan, task)
        grant = sign_grant(plan, task, credentials=credentials, now=now, bucket=seen, uploads=uploads)
        apart = stub(plan, task, grant, credentials=credentials, now=now, bucket=seen) if plan.apart else b""
        return grant, apart
