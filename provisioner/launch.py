"""How a launch happens, from the top.

1. what the job needs is checked: the signature's lifetime, its inputs, the size of its user-data;
2. the first task's ``launched`` event is posted with the very policy its VM will get, before anything is paid for;
3. the inputs and the job's record go to the bucket;
4. each task is signed, announced and started;
5. the record says what was started, and that all was.

Killed at any point, the same launch finds its own mark in the bucket and goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.grant import Grant
from provisioner import preflight, userdata
from provisioner import record as records
from provisioner.errors import BadInput, FreepostError, Incomplete, NotFound
from provisioner.grants import sign_grant
from provisioner.keys import JobKeys
from provisioner.output import Event, Report
from provisioner.plan import Plan, StagedInput, TaskPlan, iso, make_plan, new_job_id
from provisioner.policy import check_lifetime
from provisioner.providers.base import Instance, Order, Provider
from provisioner.record import JobRecord
from provisioner.spec import InputSpec, JobSpec
from provisioner.store import Store
from provisioner.userdata import UserData

_ENTROPY = "abcdefghijkmnpqrstuvwxyz23456789"  # nothing that reads like something else


@dataclass(frozen=True)
class Launcher:
    """What a launch works with. `store` and `provider` retry by themselves (`provisioner.retry`)."""

    store: Store
    provider: Provider
    clock: Callable[[], datetime]
    report: Report

    def launch(self, spec: JobSpec) -> JobRecord:
        """Launch a job, or go on with a launch of the same spec that was cut off."""
        mark = JobKeys(self.store.prefix, ".launching").root + records.digest(spec, self.provider.name)
        plan = self.plan(spec, job=self._unfinished(mark))
        self._prove(plan)
        self.store.put(mark, json.dumps({"job": plan.job}).encode())
        self._stage(plan)
        record = self._start(plan, self._recorded(plan))
        self.store.delete([mark])
        return record

    def retry(self, record: JobRecord, tasks: Sequence[str]) -> JobRecord:
        """Launch the next attempt of these tasks of a launched job, with new signatures and a new deadline."""
        attempts = {task: record.attempts.get(task, 0) + 1 for task in tasks}
        plan = self.plan(record.spec, job=record.job, attempts=attempts, inputs=record.inputs)
        self._prove(plan)
        return self._start(plan, record)

    def plan(
        self,
        spec: JobSpec,
        *,
        job: str | None = None,
        attempts: Mapping[str, int] | None = None,
        inputs: Sequence[StagedInput] | None = None,
    ) -> Plan:
        """Say everything that launching `spec` will do. Nothing is changed anywhere.

        A new job unless `job` names one, the first attempt of every task unless `attempts` says otherwise.
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
            user_data_limit=self.provider.user_data_limit,
            now=now,
            credentials_expire=self.store.credentials.expires,
            attempts=attempts,
            inputs=[self._measure(item, keys) for item in spec.inputs] if inputs is None else inputs,
        )
        check_lifetime(self.store.credentials, now=now, needed_until=plan.deadline, what=f"job {spec.name}")
        return self._made_to_fit(plan)

    def render(self, plan: Plan, task: TaskPlan) -> tuple[Grant, UserData]:
        """Sign the grant of a task and render its user-data. Raise BadInput, with the ledger, when it is too large."""
        grant = sign_grant(plan, task, credentials=self.store.credentials, now=self.clock())
        user_data = userdata.render(plan, task, grant)
        if len(user_data.data) > plan.user_data_limit:
            message = f"the user-data has {len(user_data.data)} bytes; {plan.provider} takes {plan.user_data_limit}"
            ledger = [f"{line.section}: {line.size} bytes, {line.cost} compressed" for line in user_data.ledger()]
            raise BadInput(message, hint="shorten run.command or run.env, or move them to an input", faults=ledger)
        return grant, user_data

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

    def _made_to_fit(self, plan: Plan) -> Plan:
        """Move the job's costliest files from the user-data to the bucket until it fits, or nothing is left to move."""
        task = plan.tasks[-1]
        while True:
            grant = sign_grant(plan, task, credentials=self.store.credentials, now=plan.created)
            fitted = userdata.fit(plan, task, grant)
            if fitted == plan:
                return plan
            plan = fitted

    def _prove(self, plan: Plan) -> None:
        """Announce the first task: a bad bucket, clock, key or size ends the launch here, with nothing half made."""
        grant, _ = self.render(plan, plan.tasks[0])
        self._announce(grant)

    def _announce(self, grant: Grant) -> None:
        event = {
            "event": "launched",
            "time": iso(self.clock()),
            "job": grant.job,
            "task": grant.task,
            "attempt": grant.attempt,
        }
        preflight.post(grant.status, "launched", json.dumps({**event, "provider": self.provider.name}).encode())

    def _stage(self, plan: Plan) -> None:
        """Upload what the VMs will pull."""
        sources = {item.path: item.source for item in plan.spec.inputs}
        for item in plan.inputs:
            source = sources[item.path]
            if isinstance(source, Path):
                with source.open("rb") as file:
                    self.store.upload(item.key, file)
                self.report(
                    Event("staged", f"staged {item.path} ({item.size} bytes)", {"path": item.path, "size": item.size})
                )
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
            record = JobRecord(
                plan.job, plan.spec, plan.provider, plan.created, plan.deadline, plan.expires, plan.inputs
            )
            self.store.put(plan.keys.record, records.dump(record))
            return record

    def _start(self, plan: Plan, record: JobRecord) -> JobRecord:
        """Start every task that has no VM yet. What was started is recorded, whatever else happens."""
        have = {(item.task, item.attempt) for item in record.instances}
        try:
            for task in plan.tasks:
                if (task.task, task.attempt) not in have:
                    record = record.with_instances(self._start_one(plan, task))
            return dataclasses.replace(record, launched=True)
        except FreepostError as error:
            started, wanted = len(record.instances) - len(have), len(plan.tasks)
            message = f"{plan.job}: started {started} of {wanted} tasks, then: {error.message}"
            raise Incomplete(
                message, hint=f"{error.hint or 'see the message'}; the same command goes on from here"
            ) from error
        finally:
            done = {(item.task, item.attempt) for item in record.instances}
            launched = record.launched or {(task.task, task.attempt) for task in plan.tasks} <= done
            later = dataclasses.replace(record, launched=launched, deadline=plan.deadline, expires=plan.expires)
            self.store.put(plan.keys.record, records.dump(later))

    def _start_one(self, plan: Plan, task: TaskPlan) -> Sequence[Instance]:
        grant, user_data = self.render(plan, task)
        if task != plan.tasks[0]:  # the first was announced to prove the policy
            self._announce(grant)
        instances = self.provider.launch(
            Order(plan.job, (task.task,), task.attempt, task.token, plan.expires, user_data.data, plan.spec.vm.options)
        )
        for item in instances:
            data = {"job": plan.job, "task": item.task, "attempt": item.attempt, "instance": item.id}
            self.report(
                Event("launched", f"launched task {item.task} of {plan.job} on {plan.provider}: {item.id}", data)
            )
        return instances
