"""How a launch happens, from the top.

1. what the job needs is checked: the signature's lifetime, its inputs, the size of its user-data;
2. the provider says what may be ordered (types, zones, markets), the best first;
3. the first task's ``launched`` event is posted with the very policy its VM will get, before anything is paid for;
4. the inputs and the job's record go to the bucket;
5. what a launch that was cut off had ordered is found again (`provisioner.jobs.journal`);
6. each task, or group of tasks, is signed, announced and ordered, several at a time (`provisioner.jobs.orders`);
7. the record says what was started, and that all was.

Killed at any point, the same launch finds its own mark in the bucket and goes on where it stopped. `Launcher` takes
these steps in this order; what else it does (stage, retry, recover) comes after them and is made of the same.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from agent.grant import Grant, for_index
from agent.layout import FAILED, LAUNCHED
from provisioner.errors import FreepostError, NoForms, NotFound
from provisioner.job.spec import JobSpec
from provisioner.jobs import record as records
from provisioner.jobs import status
from provisioner.jobs.journal import OrderJournal
from provisioner.jobs.orders import OrderPlacer, Started, TaskOrders
from provisioner.jobs.record import JobRecord
from provisioner.jobs.role_session import RoleSessions
from provisioner.jobs.staging import Stager, measure
from provisioner.jobs.vm_documents import VmDocuments
from provisioner.output import Event, Report
from provisioner.plan.layout import JobKeys, marks_root
from provisioner.plan.plan import Plan, StagedInput, TaskPlan, new_job_id, task_plans
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.providers.base import Choice, Provider
from provisioner.s3 import probe
from provisioner.s3.bucket import Store
from provisioner.s3.retrying_forms import RetryingFormClient
from provisioner.userdata import validate
from provisioner.userdata.render import UserData

_ENTROPY = "abcdefghijkmnpqrstuvwxyz23456789"  # no character that looks like another


@dataclass(frozen=True)
class Launcher:
    """What a launch works with. `store` and `provider` retry by themselves (`provisioner.retry`)."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    report: Report
    sessions: RoleSessions
    # Each task is announced by a form: among thousands, some will meet a busy store.
    forms: probe.FormClient = field(default_factory=lambda: RetryingFormClient(probe.FormClient()))

    def launch(self, spec: JobSpec) -> JobRecord:
        """Launch a job, or go on with a launch of the same spec that was cut off."""
        mark = marks_root(self.store.prefix) + records.digest(spec, self.provider.name)
        plan = self.plan(spec, job=self._unfinished(mark))
        choices = self._choices(spec)
        plan = self._prove_method(plan)
        self.store.put(mark, json.dumps({"job": plan.job}).encode())
        Stager(self.store, self.report).stage(plan)
        record = self._record_archive(self._find_or_write_record(plan), plan)
        record = self._start(plan, record, choices)
        self.store.delete([mark])
        return record

    def _unfinished(self, mark: str) -> str | None:
        """The id of the job whose launch was cut off after its mark was set."""
        try:
            job = str(json.loads(self.store.get(mark))["job"])
        except NotFound:
            return None
        self.report(Event("continuing", f"continuing {job}, whose launch was cut off", {"job": job}))
        return job

    def plan(
        self,
        spec: JobSpec,
        *,
        job: str | None = None,
        attempts: Mapping[str, int] | None = None,
        inputs: Sequence[StagedInput] | None = None,
        raw: bool = False,
        staged: bool = True,
    ) -> Plan:
        """Say everything that launching `spec` will do. Nothing is changed anywhere. Raise BadInput if it can't fit.

        A new job unless `job` names one, the first attempt of every task unless `attempts` says otherwise. `raw` is for
        a platform that refuses gzip, with a limit of its own; not `staged` where nothing will be put into the bucket.
        """
        now = self.clock()
        name = job or new_job_id(spec.name, now, "".join(secrets.choice(_ENTROPY) for _ in range(4)))
        keys = JobKeys(self.store.prefix, name)
        plan = make_plan(
            LaunchRequest(
                spec,
                job=name,
                bucket=self.store.bucket,
                prefix=self.store.prefix,
                provider=self.provider.name,
                user_data_limit=self.provider.raw_limit if raw else self.provider.user_data_limit,
                raw=raw,
                now=now,
                credentials_expire=self.sessions.check(spec, now, now + timedelta(seconds=spec.signed)),
                attempts=attempts,
                inputs=[measure(self.store, item, keys) for item in spec.inputs] if inputs is None else inputs,
                groups=self.provider.groups,
                has_guest=self.provider.has_guest,
            )
        )
        return self._documents.fit_user_data(plan, staged=staged)

    def _choices(self, spec: JobSpec) -> Sequence[Choice]:
        """Return what the provider may order for this job, the best first."""
        return self.provider.choices(spec.vm.options)

    def _prove_method(self, plan: Plan) -> Plan:
        """Prove a plan. If the store takes no forms and the job allows it, plan PUTs instead and prove that."""
        try:
            self._prove(plan)
        except NoForms as error:
            if plan.spec.method != "auto" or plan.spec.store is None:
                raise
            self.report(Event("put", f"{error.message}: VMs are to upload by presigned PUTs", {"method": "put"}))
            spec = dataclasses.replace(plan.spec, store=dataclasses.replace(plan.spec.store, method="put"))
            plan = self.plan(spec, job=plan.job, inputs=plan.inputs)
            self._prove(plan)
        return plan

    def _prove(self, plan: Plan) -> None:
        """Announce the first task. A bad bucket, clock, key or size ends the launch here, before anything is made."""
        first = for_index(self.rehearse(plan)[0], 0)
        self._documents.announce(plan, first)
        probe.verify_stored(self.store, first.status.prefix + LAUNCHED)

    def rehearse(self, plan: Plan) -> tuple[Grant, UserData]:
        """Render the first task and hold it to cloud-init's schema, as a launch does before it announces anything."""
        grant, user_data = self.render(plan, plan.tasks[0])
        # Without a VM no cloud-init reads it: a fault still counts, a missing schema is not worth a warning.
        validate.check(user_data.plain, self.report, quiet=not self.provider.has_guest)
        return grant, user_data

    def render(self, plan: Plan, task: TaskPlan, *, use: bool = False) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data, as `VmDocuments.render` does."""
        return self._documents.render(plan, task, use=use)

    def _find_or_write_record(self, plan: Plan) -> JobRecord:
        """Return the record that an interrupted launch of this job wrote, or write a new one, before any VM starts."""
        try:
            return records.read_record(self.store, plan.job)
        except NotFound:
            # What this machine's configuration decided (a region, say) is recorded for other machines.
            options = {**plan.spec.vm.options, **self.provider.pinned_options}
            spec = dataclasses.replace(plan.spec, vm=dataclasses.replace(plan.spec.vm, options=options))
            record = JobRecord(plan.job, spec, plan.provider, plan.created, plan.deadline, plan.grants_end, plan.inputs)
            record = _with_archive(record, plan)
            records.write_record(self.store, record)
            return record

    def _record_archive(self, record: JobRecord, plan: Plan) -> JobRecord:
        """Write the name of the agent's archive into the record before a VM can need the archive."""
        updated = _with_archive(record, plan)
        if updated != record:
            records.write_record(self.store, updated)
        return updated

    def _start(
        self, plan: Plan, record: JobRecord, choices: Sequence[Choice], avoid: Mapping[str, str] | None = None
    ) -> JobRecord:
        """Order VMs for every task that has none yet. What was started is recorded, whatever else happens."""
        journal = OrderJournal(self.store, plan.keys)
        started = Started(plan.job, plan.provider, sum(len(task.members) for task in plan.tasks), self.report)
        placer = OrderPlacer(self.provider, journal, choices, self.clock, avoid or {})
        orders = TaskOrders(plan, self._documents, placer, started)
        try:
            wanted = orders.resume()
            have = record.with_instances(started.instances).attempts
            missing = {task: attempt for task, attempt in wanted.items() if have.get(task, 0) < attempt}
            orders.order_all(task_plans(plan.job, missing, plan.group_size))
            record = dataclasses.replace(record, launched=True)
        except FreepostError as error:
            raise started.failure(error) from error
        finally:
            record = self._keep(record, started, journal)
        return record

    def _keep(self, record: JobRecord, started: Started, journal: OrderJournal) -> JobRecord:
        """Record what was started and when the last grant of it ends, then drop its orders from the journal."""
        later = max(timedelta(), (started.expires or record.expires) - record.expires)
        record = dataclasses.replace(
            record.with_instances(started.instances),
            deadline=record.deadline + later,
            expires=record.expires + later,
        )
        records.write_record(self.store, record)
        journal.drop(started.tokens)
        return record

    def stage(self, plan: Plan) -> JobRecord:
        """Do all of a launch but ordering VMs, for a plan whose user-data something else gives to one."""
        self._prove(plan)
        Stager(self.store, self.report).stage(plan)
        record = dataclasses.replace(self._find_or_write_record(plan), launched=True)
        records.write_record(self.store, record)
        return record

    def retry(self, record: JobRecord, tasks: Sequence[str]) -> JobRecord:
        """Launch the next attempt of these tasks of a launched job, with new signatures and a new deadline."""
        posted = {item.task: item for item in status.read(self.store, record)}
        attempts = {task: _next(record, posted[task]) for task in tasks}
        plan = self.plan(record.spec, job=record.job, attempts=attempts, inputs=record.inputs)
        choices, avoid = self._choices(record.spec), self._choices_to_avoid(record, tasks)
        self._prove(plan)
        record = self._record_archive(record, plan)
        Stager(self.store, self.report).move(plan)
        return self._start(plan, record, choices, avoid)

    def _choices_to_avoid(self, record: JobRecord, tasks: Sequence[str]) -> dict[str, str]:
        """Return, by task, the choice whose VM was interrupted or lost last time: another is more likely to work."""
        taken = {item.task for item in status.read(self.store, record) if item.event != FAILED} & set(tasks)
        latest = {item.task: item for item in record.instances if item.attempt == record.attempts.get(item.task)}
        return {task: latest[task].place for task in taken & set(latest)}

    def recover(self, record: JobRecord) -> JobRecord:
        """Record what a retry that was cut off had ordered, sending again the orders that may be."""
        journal = OrderJournal(self.store, records.keys_of(self.store, record))
        entries = journal.entries() if record.launched else []
        if not entries:
            return record
        started = Started(record.job, record.provider, sum(len(each.order.tasks) for each in entries), self.report)
        placer = OrderPlacer(self.provider, journal, (), self.clock)
        try:
            for entry in entries:
                started.add(placer.resume(entry))
        finally:
            record = self._keep(record, started, journal)
        return record

    @property
    def _documents(self) -> VmDocuments:
        return VmDocuments(self.store, self.provider, self.clock, self.sessions, self.forms)


def _with_archive(record: JobRecord, plan: Plan) -> JobRecord:
    """Return the record with the name of the agent's archive that a plan's VMs fetch, so that `gc` keeps that."""
    more = (plan.archive.key,) if plan.archive else ()
    return dataclasses.replace(record, agents=tuple(dict.fromkeys((*record.agents, *more))))


def _next(record: JobRecord, posted: status.TaskStatus) -> int:
    """Return the number of the attempt that a retry launches: an announced one that never had a VM is used again."""
    recorded = record.attempts.get(posted.task, 0)
    if posted.attempt > recorded and posted.event == LAUNCHED:
        return posted.attempt
    return max(posted.attempt, recorded) + 1
