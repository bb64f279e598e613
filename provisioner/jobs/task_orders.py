"""Orders the VMs of a plan's tasks: each is signed for from that moment, announced and ordered, several at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta

from agent.grant import for_index
from agent.layout import LAUNCHED
from provisioner.errors import Conflict
from provisioner.jobs.granting import Granter
from provisioner.jobs.orders import OrderPlacer, Started
from provisioner.plan.layout import parse_status
from provisioner.plan.plan import Plan, TaskPlan, launch_token
from provisioner.providers.base import Phase

ATTEMPTS = 3  # at one order whose token the provider has seen with other bytes


@dataclass(frozen=True)
class TaskOrders:
    """The orders of one launch; what they start is added to `started`."""

    plan: Plan
    granter: Granter
    placer: OrderPlacer
    started: Started

    def resume(self) -> dict[str, int]:
        """Find what a launch that was cut off had ordered. Return the tasks to order yet, each at its attempt.

        One whose VM ended with nothing done takes its next attempt; one that was at work is the watcher's to judge.
        """
        wanted = {name: task.attempt for task in self.plan.tasks for name in task.members}
        entries = self.placer.journal.entries()
        for entry in entries:
            self.started.add(self.placer.resume(entry))
        if not entries:
            return wanted
        root, store, provider = self.plan.keys.status_root, self.granter.store, self.granter.provider
        found = [parse_status(root, entry.key) for entry in store.list(root)]
        lived = {(key.task, key.attempt) for key in found if key and key.name != LAUNCHED}
        resumed = self.started.instances
        states = provider.state(resumed) if resumed else {}
        ended = {name for name, state in states.items() if state.phase is Phase.GONE and state.known}
        gone = {(item.task, item.attempt) for item in resumed if item.id in ended}
        return {
            task: attempt + ((task, attempt) in gone)
            for task, attempt in wanted.items()
            if (task, attempt) not in lived
        }

    def order_all(self, tasks: Sequence[TaskPlan]) -> None:
        """Order these, as many at a time as suits the provider. An error ends it, once those under way are done."""
        provider = self.granter.provider
        with ThreadPoolExecutor(provider.concurrency) as pool:
            orders = [pool.submit(self._order, task) for task in tasks]
            try:
                for order in as_completed(orders):
                    order.result()
            except KeyboardInterrupt:
                provider.stop_waiting()
                raise
            finally:
                pool.shutdown(cancel_futures=True)

    def _order(self, task: TaskPlan) -> None:
        """Sign, announce and order one task or group; at its next attempt if its token was spent on something else."""
        first = self.plan.tasks[0]
        for attempt in range(task.attempt, task.attempt + ATTEMPTS):
            now = TaskPlan(task.task, attempt, launch_token(self.plan.job, task.task, attempt))
            timed = self._from_now()
            grant, user_data = self.granter.render(timed, now, use=True)
            for index, name in enumerate(now.members):
                if (name, attempt) != (first.members[0], first.attempt):  # that one proved the policy
                    self.granter.announce(timed, for_index(grant, index))
            try:
                return self.started.add(self.placer.place(self.plan.job, now, timed.grants_end, user_data.data))
            except Conflict as error:
                conflict = error
        raise conflict

    def _from_now(self) -> Plan:
        """The plan as if it were made now: of thousands of VMs, the last are ordered an hour after the first.

        Raise Expiry when what signs ends too early for a VM that starts now.
        """
        plan, now = self.plan, self.granter.clock()
        signing_ends = self.granter.sessions.check(plan.spec, now, now + timedelta(seconds=plan.spec.signed))
        return plan.postponed(now - plan.created, signing_ends)
