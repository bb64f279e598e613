"""How a launch happens, from the top.

1. what the job needs is checked: the signature's lifetime, its inputs, the size of its user-data;
2. the provider says what may be ordered (types, zones, markets), the best first;
3. the first task's ``launched`` event is posted with the very policy its VM will get, before anything is paid for;
4. the inputs and the job's record go to the bucket;
5. what a launch that was cut off had ordered is found again (`provisioner.jobs.orders`);
6. each task, or group of tasks, is signed, announced and ordered, several at a time;
7. the record says what was started, and that all was.

Killed at any point, the same launch finds its own mark in the bucket and goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from agent.grant import Grant, for_index
from provisioner.errors import Conflict, FreepostError, NoForms, NotFound
from provisioner.job.spec import InputSpec, JobSpec
from provisioner.jobs import record as records
from provisioner.jobs import watch
from provisioner.jobs.granting import Granter
from provisioner.jobs.orders import ATTEMPTS, Desk, Journal, Started
from provisioner.jobs.record import JobRecord
from provisioner.jobs.role_session import Signer
from provisioner.output import Event, Report
from provisioner.packing import agent_archive
from provisioner.plan.layout import JobKeys, parse_status
from provisioner.plan.plan import Plan, StagedInput, TaskPlan, launch_token, make_plan, new_job_id, task_plans
from provisioner.providers.base import Choice, Instance, Phase, Provider, raw_limit
from provisioner.retry import retried
from provisioner.s3 import probe
from provisioner.s3.bucket import Store
from provisioner.userdata import validate
from provisioner.userdata.render import UserData

_ENTROPY = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that reads like something else


@dataclass(frozen=True)
class Launcher:
    """What a launch works with. `store` and `provider` retry by themselves (`provisioner.retry`)."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    report: Report
    signer: Signer
    # Each task is announced by a form: one of thousands may meet a store that has no time.
    forms: probe.Poster = field(default_factory=lambda: retried(probe.Poster()))

    def launch(self, spec: JobSpec) -> JobRecord:
        """Launch a job, or go on with a launch of the same spec that was cut off."""
        mark = JobKeys(self.store.prefix, ".launching").root + records.digest(spec, self.provider.name)
        plan = self.plan(spec, job=self._unfinished(mark))
        choices = self._choices(spec)
        plan = self._proven(plan)
        self.store.put(mark, json.dumps({"job": plan.job}).encode())
        self._stage(plan)
        record = self._start(plan, self._named(self._recorded(plan), plan), choices)
        self.store.delete([mark])
        return record

    def stage(self, plan: Plan) -> JobRecord:
        """Do all of a launch but ordering VMs, for a plan whose user-data something else gives to one."""
        self._prove(plan)
        self._stage(plan)
        record = dataclasses.replace(self._recorded(plan), launched=True)
        self.store.put(plan.keys.record, records.dump(record))
        return record

    def retry(self, record: JobRecord, tasks: Sequence[str]) -> JobRecord:
        """Launch the next attempt of these tasks of a launched job, with new signatures and a new deadline."""
        posted = {item.task: item for item in watch.status(self.store, record)}
        attempts = {task: _next(record, posted[task]) for task in tasks}
        plan = self.plan(record.spec, job=record.job, attempts=attempts, inputs=record.inputs)
        choices, left = self._choices(record.spec), self._left(record, tasks)
        self._prove(plan)
        record = self._named(record, plan)
        self._move(plan)
        return self._start(plan, record, choices, left)

    def recover(self, record: JobRecord) -> JobRecord:
        """Record what a retry that was cut off had ordered; an order that may be sent again is."""
        journal = Journal(self.store, JobKeys(self.store.prefix, record.job))
        entries = journal.entries() if record.launched else []
        if not entries:
            return record
        started = Started(record.job, record.provider, sum(len(each.order.tasks) for each in entries), self.report)
        desk = Desk(self.provider, journal, (), self.clock)
        try:
            for entry in entries:
                started.add(desk.resume(entry))
        finally:
            record = self._keep(record, started, journal)
        return record

    def _left(self, record: JobRecord, tasks: Sequence[str]) -> dict[str, str]:
        """By task, the choice that its last VM was of, where that VM was taken away or lost: elsewhere is better."""
        taken = {item.task for item in watch.status(self.store, record) if item.event != "failed"} & set(tasks)
        latest = {item.task: item for item in record.instances if item.attempt == record.attempts.get(item.task)}
        return {task: latest[task].place for task in taken & set(latest)}

    def plan(  # noqa: PLR0913 - what a launch, a retry and a rendering each decide
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
            spec,
            job=name,
            bucket=self.store.bucket,
            prefix=self.store.prefix,
            provider=self.provider.name,
            user_data_limit=raw_limit(self.provider) if raw else self.provider.user_data_limit,
            raw=raw,
            now=now,
            credentials_expire=self.signer.check(spec, now, now + timedelta(seconds=spec.signed)),
            attempts=attempts,
            inputs=[self._measure(item, keys) for item in spec.inputs] if inputs is None else inputs,
            groups=getattr(self.provider, "groups", False),
        )
        return self._granter.made_to_fit(plan, staged=staged)

    def rehearse(self, plan: Plan) -> tuple[Grant, UserData]:
        """Render the first task and hold it to cloud-init's schema, as a launch does before it announces anything."""
        grant, user_data = self.render(plan, plan.tasks[0])
        # Without a VM no cloud-init reads it: a fault is still told, a missing schema is not.
        validate.require(user_data.plain, self.report, quiet=self.provider.name == "local")
        return grant, user_data

    def render(self, plan: Plan, task: TaskPlan, *, use: bool = False) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data, as `Granter.render` does."""
        return self._granter.render(plan, task, use=use)

    def _unfinished(self, mark: str) -> str | None:
        """The id of the job whose launch was cut off after its mark was set."""
        try:
            job = str(json.loads(self.store.get(mark))["job"])
        except NotFound:
            return None
        self.report(Event("continuing", f"continuing {job}, whose launch was cut off", {"job": job}))
        return job

    def _measure(self, item: InputSpec, keys: JobKeys) -> StagedInput:
        """Find an input's size, and the hash that pins it if it is ours to upload."""
        if not isinstance(item.source, Path):
            key = item.source.removeprefix(f"s3://{self.store.bucket.name}/")
            return StagedInput(item.path, key, item.mode, self.store.size(key), None)
        digest = hashlib.sha256()
        with item.source.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
            size = source.tell()
        return StagedInput(item.path, keys.input(item.path), item.mode, size, digest.hexdigest())

    def _choices(self, spec: JobSpec) -> Sequence[Choice]:
        """What the provider offers for this job; for one that has no choice to make, the job's own options."""
        choices = getattr(self.provider, "choices", None)
        return choices(spec.vm.options) if choices else [Choice("", spec.vm.options)]

    @property
    def _granter(self) -> Granter:
        return Granter(self.store, self.provider, self.clock, self.signer, self.forms)

    def _proven(self, plan: Plan) -> Plan:
        """Prove a plan; where the store takes no forms and the job leaves it to us, one of PUTs instead."""
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
        """Announce the first task: a bad bucket, clock, key or size ends the launch here, with nothing half made."""
        first = for_index(self.rehearse(plan)[0], 0)
        self._granter.announce(plan, first)
        probe.kept(self.store, first.status.prefix + "launched")

    def _stage(self, plan: Plan) -> None:
        """Upload what the VMs will pull."""
        sources = {item.path: item.source for item in plan.spec.inputs}
        for item in plan.inputs:
            source = sources[item.path]
            if isinstance(source, Path):
                self.store.upload(item.key, source)
                self.report(
                    Event("staged", f"staged {item.path} ({item.size} bytes)", {"path": item.path, "size": item.size})
                )
        self._move(plan)

    def _move(self, plan: Plan) -> None:
        """Put into the bucket what had no room in the user-data."""
        if plan.archive:  # written anew by each launch: whatever became of it meanwhile, it is right now, and young
            self.store.put(plan.archive.key, agent_archive.rest(), content_type="application/octet-stream")
        for spilled in plan.spilled:
            self.store.put(plan.spill_entry(spilled).key, spilled.content, content_type="application/octet-stream")
            self.report(
                Event("spilled", f"{spilled.path} is too large for user-data; the VM pulls it", {"path": spilled.path})
            )

    def _recorded(self, plan: Plan) -> JobRecord:
        """The record that a cut-off launch of this job left, or a new one, written before any VM starts."""
        try:
            return records.parse(self.store.get(plan.keys.record), plan.keys.record)
        except NotFound:
            # What this machine's own configuration decided (a region, say) is written down for the next machine.
            options = {**plan.spec.vm.options, **getattr(self.provider, "pinned", {})}
            spec = dataclasses.replace(plan.spec, vm=dataclasses.replace(plan.spec.vm, options=options))
            record = JobRecord(plan.job, spec, plan.provider, plan.created, plan.deadline, plan.ends, plan.inputs)
            record = _naming(record, plan)
            self.store.put(plan.keys.record, records.dump(record))
            return record

    def _named(self, record: JobRecord, plan: Plan) -> JobRecord:
        """Let the record name the archive of the agent before a VM can want it."""
        named = _naming(record, plan)
        if named != record:
            self.store.put(plan.keys.record, records.dump(named))
        return named

    def _start(
        self, plan: Plan, record: JobRecord, choices: Sequence[Choice], left: Mapping[str, str] | None = None
    ) -> JobRecord:
        """Order VMs for every task that has none yet. What was started is recorded, whatever else happens."""
        journal = Journal(self.store, plan.keys)
        desk = Desk(self.provider, journal, choices, self.clock, left or {})
        wanted = {name: task.attempt for task in plan.tasks for name in task.members}
        started = Started(plan.job, plan.provider, len(wanted), self.report)
        try:
            for entry in (resumed := journal.entries()):
                started.add(desk.resume(entry))
            if resumed:
                wanted = self._outstanding(plan, wanted, started.instances)
            have = record.with_instances(started.instances).attempts
            missing = {task: attempt for task, attempt in wanted.items() if have.get(task, 0) < attempt}
            self._order_all(plan, task_plans(plan.job, missing, plan.group_size), desk, started)
            record = dataclasses.replace(record, launched=True)
        except FreepostError as error:
            raise started.ended(error) from error
        finally:
            record = self._keep(record, started, journal)
        return record

    def _keep(self, record: JobRecord, started: Started, journal: Journal) -> JobRecord:
        """Write down what was started, and until when the last of it lives; then its orders can go."""
        later = max(timedelta(), (started.ends or record.expires) - record.expires)
        record = dataclasses.replace(
            record.with_instances(started.instances),
            deadline=record.deadline + later,
            expires=record.expires + later,
        )
        self.store.put(journal.keys.record, records.dump(record))
        journal.drop(started.tokens)
        return record

    def _outstanding(self, plan: Plan, wanted: Mapping[str, int], resumed: Sequence[Instance]) -> dict[str, int]:
        """The tasks to order, each at its attempt, after a launch that was cut off had ordered some.

        One whose VM ended with nothing done takes its next attempt; one that was at work is the watcher's to judge.
        """
        root = plan.keys.status_root
        found = [parse_status(root, entry.key) for entry in self.store.list(root)]
        lived = {(key.task, key.attempt) for key in found if key and key.name != "launched"}
        states = self.provider.state(resumed) if resumed else {}
        ended = {name for name, state in states.items() if state.phase is Phase.GONE and state.known}
        gone = {(item.task, item.attempt) for item in resumed if item.id in ended}
        return {
            task: attempt + ((task, attempt) in gone)
            for task, attempt in wanted.items()
            if (task, attempt) not in lived
        }

    def _order_all(self, plan: Plan, tasks: Sequence[TaskPlan], desk: Desk, started: Started) -> None:
        """Order these, as many at a time as suits the provider. An error ends it, once those under way are done."""
        with ThreadPoolExecutor(getattr(self.provider, "concurrency", 1)) as pool:
            orders = [pool.submit(self._order, plan, task, desk, started) for task in tasks]
            try:
                for order in as_completed(orders):
                    order.result()
            except KeyboardInterrupt:
                getattr(self.provider, "abandon", lambda: None)()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def _order(self, plan: Plan, task: TaskPlan, desk: Desk, started: Started) -> None:
        """Sign, announce and order one task or group; at its next attempt if its token was spent on something else."""
        for attempt in range(task.attempt, task.attempt + ATTEMPTS):
            now = TaskPlan(task.task, attempt, launch_token(plan.job, task.task, attempt))
            timed = self._from_now(plan)
            grant, user_data = self.render(timed, now, use=True)
            for index, name in enumerate(now.members):
                if (name, attempt) != (plan.tasks[0].members[0], plan.tasks[0].attempt):  # that one proved the policy
                    self._granter.announce(timed, for_index(grant, index))
            try:
                return started.add(desk.serve(plan.job, now, timed.ends, user_data.data))
            except Conflict as error:
                conflict = error
        raise conflict

    def _from_now(self, plan: Plan) -> Plan:
        """The plan as if it were made now: of thousands of VMs, the last are ordered an hour after the first.

        Raise Expiry when what signs ends too early for a VM that starts now.
        """
        now = self.clock()
        signing_ends = self.signer.check(plan.spec, now, now + timedelta(seconds=plan.spec.signed))
        return plan.later(now - plan.created, signing_ends)


def _naming(record: JobRecord, plan: Plan) -> JobRecord:
    """The record that names the archive of the agent that a plan's VMs fetch, so that `gc` keeps it."""
    more = (plan.archive.key,) if plan.archive else ()
    return dataclasses.replace(record, agents=tuple(dict.fromkeys((*record.agents, *more))))


def _next(record: JobRecord, posted: watch.TaskStatus) -> int:
    """The attempt that a retry launches: one that was announced and never had a VM goes by the same number."""
    recorded = record.attempts.get(posted.task, 0)
    if posted.attempt > recorded and posted.event == watch.LAUNCHED:
        return posted.attempt
    return max(posted.attempt, recorded) + 1
