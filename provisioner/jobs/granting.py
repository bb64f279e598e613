"""Makes what a VM is given: its grant, signed for the store as it will see it, and the user-data around it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from agent.grant import Grant, Target
from agent.layout import LAUNCHED
from provisioner.clock import iso
from provisioner.errors import BadInput
from provisioner.jobs.role_session import RoleSessions
from provisioner.jobs.signers import ProofSigner, vm_signer
from provisioner.plan.grants import GrantSigner, large_keys
from provisioner.plan.plan import Plan, TaskPlan, new_job_id
from provisioner.providers.base import Provider
from provisioner.s3.bucket import Store
from provisioner.s3.probe import FormClient
from provisioner.userdata import render as userdata
from provisioner.userdata.render import UserData

_ANNOUNCED = timedelta(minutes=15)  # how long the signature of one event of ours lives
_THEN, _LONG = datetime(2026, 12, 24, 23, 59, 59, tzinfo=timezone.utc), timedelta(days=6)  # of what is only measured


@dataclass(frozen=True)
class Granter:
    """Makes what a VM is given, with the parts of a `Launcher`."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    sessions: RoleSessions
    forms: FormClient

    def render(self, plan: Plan, task: TaskPlan, *, use: bool = False) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data. Raise BadInput, with the ledger, when it is too large.

        To `use` it, what its uploads need is begun in the bucket, and a grant that lies apart is put there.
        """
        signer = vm_signer(self.provider, plan, self.sessions.credentials(plan, task), self.clock())
        grant = signer.grant(task, uploads=self._begun(plan, task) if use else {})
        user_data = _rendered(signer, task, grant)
        if len(user_data.data) > plan.user_data_limit:
            raise too_large(plan, user_data)
        if use:
            for key, data in user_data.extra_objects.items():
                self.store.put(key, data)
        return grant, user_data

    def made_to_fit(self, plan: Plan, *, staged: bool = True) -> Plan:
        """Move things from the user-data to the bucket until it fits. Raise BadInput, with the ledger, if it can't.

        `staged` says that what is moved will be uploaded.
        """
        user_data = self._measured(plan)
        while not userdata.fits(plan, user_data):
            found = [(each, self._measured(each)) for each in userdata.smaller_plans(plan, user_data, staged=staged)]
            smallest = min(found, key=lambda each: len(each[1].data), default=None)
            if smallest is None or len(smallest[1].data) >= len(user_data.data):
                raise too_large(plan, user_data)
            plan, user_data = smallest
        return plan

    def _measured(self, plan: Plan) -> UserData:
        """The user-data of a plan's last task, the longest to write, as it would be for a fixed job and time.

        So its size doesn't depend on when it is measured: what a dry run says of it holds for the launch, too.
        """
        task = plan.tasks[-1]
        credentials = dataclasses.replace(self.sessions.credentials(plan, task), expires=None)
        then = dataclasses.replace(
            plan,
            job=new_job_id(plan.spec.name, _THEN, "aaaa"),
            keys=plan.keys._replace(job=new_job_id(plan.spec.name, _THEN, "aaaa")),
            created=_THEN,
            deadline=_THEN + _LONG,
            expires=_THEN + _LONG,
        )
        then = dataclasses.replace(
            then,
            inputs=tuple(
                dataclasses.replace(item, key=item.key.replace(plan.keys.root, then.keys.root, 1))
                for item in plan.inputs
            ),
        )
        signer = vm_signer(self.provider, then, credentials, _THEN)
        return _rendered(signer, task, signer.grant(task))

    def announce(self, plan: Plan, grant: Grant) -> None:
        """Store the event `launched` with what the VM will use, at the store's address as we see it."""
        event = {
            "event": LAUNCHED,
            "time": iso(self.clock()),
            "job": grant.job,
            "task": grant.task,
            "attempt": grant.attempt,
            "provider": self.provider.name,
        }
        self.forms.post(self._seen_here(plan, grant), LAUNCHED, json.dumps(event).encode())

    def _seen_here(self, plan: Plan, grant: Grant) -> Target:
        """The status target of a grant, for our address of the store: the VM's may be one that only it can reach."""
        url = self.store.bucket.url
        if url == grant.status.url or not plan.by_put:
            return Target(url, *grant.status[1:])
        # A PUT's signature is for one address.
        credentials = self.sessions.credentials(plan, plan.task(grant.task))
        signer = ProofSigner(self.store.bucket, credentials, self.clock(), _ANNOUNCED)
        return signer.target(grant.status.prefix, LAUNCHED, by_put=True, max_bytes=0)

    def _begun(self, plan: Plan, task: TaskPlan) -> dict[str, str]:
        """The UploadId of each output that may take several PUTs: begun now, or by an earlier launch of the task."""
        keys = large_keys(plan, task)
        found = dict(self.store.uploads(plan.keys.outputs(task.task, task.attempt))) if keys else {}
        return {key: found.get(key) or self.store.begin_upload(key) for key in keys}


def _rendered(signer: GrantSigner, task: TaskPlan, grant: Grant) -> UserData:
    """Render the user-data of a task around its grant, or around the stub of one that lies apart."""
    plan = signer.plan
    return userdata.render(plan, task, grant, signer.stub(task, grant) if plan.apart else b"")


def too_large(plan: Plan, user_data: UserData) -> BadInput:
    """What is wrong with user-data that doesn't fit, and what takes how much of it."""
    size, limit = len(user_data.data), plan.user_data_limit
    hint = "set run.agent to auto; " if plan.spec.run.agent == "inline" else ""
    hint += "shorten run.command or run.env, or move them to an input"
    if plan.raw:
        hint += f"; or leave out --raw: gzipped it has {len(userdata.gzipped(user_data.plain))} bytes"
    how, packed = (" as it is", "written") if plan.raw else ("", "compressed")
    ledger = [f"{line.section}: {line.size} bytes, {line.cost} {packed}" for line in user_data.ledger()]
    room = f" and {userdata.LIMIT_MARGIN} of them are kept free" if size <= limit else ""
    return BadInput(
        f"the user-data has {size} bytes{how}; {plan.provider} takes {limit}{room}", hint=hint, faults=ledger
    )
