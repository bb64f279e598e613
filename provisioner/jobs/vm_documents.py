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

_ANNOUNCED = timedelta(minutes=15)  # lifetime of the signature of an event that we post ourselves
# Of user-data that is only measured:
_SAMPLE_TIME = datetime(2026, 12, 24, 23, 59, 59, tzinfo=timezone.utc)
_SAMPLE_LIFE = timedelta(days=6)


@dataclass(frozen=True)
class VmDocuments:
    """Makes what a VM is given, with the parts of a `Launcher`."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    sessions: RoleSessions
    forms: FormClient

    def render(self, plan: Plan, task: TaskPlan, *, use: bool = False) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data. Raise BadInput, with the ledger, when it is too large.

        To `use` it, begin its multipart uploads, and put a grant that isn't in the user-data into the bucket.
        """
        uploads = self._begin_uploads(plan, task) if use else {}
        signer = vm_signer(self.provider, plan, self.sessions.credentials(plan, task), self.clock())
        grant = signer.grant(task, uploads=uploads)
        user_data = _render(signer, task, grant)
        if len(user_data.data) > plan.user_data_limit:
            raise too_large(plan, user_data)
        if use:
            for key, data in user_data.extra_objects.items():
                self.store.put(key, data)
        return grant, user_data

    def fit_user_data(self, plan: Plan, *, staged: bool = True) -> Plan:
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
        """Return the user-data of a plan's last task, whose name is the longest, for a fixed job id and time.

        So its size doesn't depend on when it is measured, and a dry run predicts the launch's.
        """
        task = plan.tasks[-1]
        credentials = dataclasses.replace(self.sessions.credentials(plan, task), expires=None)
        sample = dataclasses.replace(
            plan,
            job=new_job_id(plan.spec.name, _SAMPLE_TIME, "aaaa"),
            keys=plan.keys._replace(job=new_job_id(plan.spec.name, _SAMPLE_TIME, "aaaa")),
            created=_SAMPLE_TIME,
            deadline=_SAMPLE_TIME + _SAMPLE_LIFE,
            expires=_SAMPLE_TIME + _SAMPLE_LIFE,
        )
        sample = dataclasses.replace(
            sample,
            inputs=tuple(
                dataclasses.replace(item, key=item.key.replace(plan.keys.root, sample.keys.root, 1))
                for item in plan.inputs
            ),
        )
        signer = vm_signer(self.provider, sample, credentials, _SAMPLE_TIME)
        return _render(signer, task, signer.grant(task))

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
        self.forms.post(self._status_target(plan, grant), LAUNCHED, json.dumps(event).encode())

    def _status_target(self, plan: Plan, grant: Grant) -> Target:
        """Return a grant's status target at our address of the store: only the VM may be able to reach the VM's."""
        url = self.store.bucket.url
        if url == grant.status.url or not plan.by_put:
            return Target(url, *grant.status[1:])
        # A PUT's signature is for one address.
        credentials = self.sessions.credentials(plan, plan.task(grant.task))
        signer = ProofSigner(self.store.bucket, credentials, self.clock(), _ANNOUNCED)
        return signer.target(grant.status.prefix, LAUNCHED, by_put=True, max_bytes=0)

    def _begin_uploads(self, plan: Plan, task: TaskPlan) -> dict[str, str]:
        """Return the UploadId of each output that may take several PUTs, begun now or by an earlier launch."""
        keys = large_keys(plan, task)
        found = dict(self.store.uploads(plan.keys.outputs(task.task, task.attempt))) if keys else {}
        return {key: found.get(key) or self.store.begin_upload(key) for key in keys}


def _render(signer: GrantSigner, task: TaskPlan, grant: Grant) -> UserData:
    """Render a task's user-data with its grant, or with the stub of a grant that is in the bucket."""
    plan = signer.plan
    return userdata.render(plan, task, grant, signer.stub(task, grant) if plan.remote_grant else b"")


def too_large(plan: Plan, user_data: UserData) -> BadInput:
    """Return the error for user-data that doesn't fit, with what each part of it takes."""
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
