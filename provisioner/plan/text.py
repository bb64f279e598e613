"""A Plan as text, for people."""

from __future__ import annotations

import json

from provisioner import units
from provisioner.clock import iso
from provisioner.plan.plan import Plan

SHOWN_TASKS = 3  # of an array


def show(plan: Plan) -> str:
    """The plan as text: what a person checks before paying for VMs."""
    spec = plan.spec
    count = sum(len(task.members) for task in plan.tasks)
    lines = [
        f"job       {plan.job}",
        f"provider  {plan.provider}, {count} VM{'s' * (count != 1)}"
        + f" in {len(plan.tasks)} groups, each with one policy for all its tasks" * plan.tasks[0].grouped,
        f"store     {plan.bucket.url} ({plan.bucket.region}), below {plan.keys.root}",
        (
            f"deadline  {iso(plan.deadline)} ({units.show_seconds(spec.deadline)} from launch: "
            f"boot {units.show_seconds(spec.vm.boot_budget)}, timeout {units.show_seconds(spec.run.timeout)}, "
            f"grace {units.show_seconds(spec.run.grace)})"
        ),
        f"policies  until {iso(plan.expires)}"
        + f", renewed until {iso(plan.deadline)} while `provision watch` or `extend` does so" * bool(spec.renew),
        f"agent     {agent(plan)}",
        f"runs      {' '.join(spec.run.command)}",
        *(f"inline    {item.path} ({len(item.content)} bytes)" for item in plan.inline),
        *(f"downloads {item.path} ({item.size} bytes) from {item.key}" for item in plan.downloads),
        *(f"pushes    {item.glob}{' in bundles' * item.bundle}" for item in spec.outputs),
        *["uploads   by presigned PUTs, for the store takes no forms or the job says so"] * plan.by_put,
    ]
    if not spec.outputs:
        lines.append("pushes    nothing but its log: the job names no outputs")
    for task in plan.tasks[:SHOWN_TASKS]:
        what = "these objects" if plan.by_put else "what these two policies allow"
        lines.append(f"task {task.task}, attempt {task.attempt}: each VM may write {what}")
        (found,) = plan.permissions(task).values()
        lines += [f"  {name:8}{json.dumps(document)}" for name, document in found.items()]
    if len(plan.tasks) > SHOWN_TASKS:
        lines.append(
            f"… and {len(plan.tasks) - SHOWN_TASKS} more tasks, alike but for their prefixes (--json shows them)"
        )
    return "\n".join(lines)


def agent(plan: Plan) -> str:
    """Where the agent comes from."""
    if plan.archive:
        return f"its core in the user-data, the rest ({plan.archive.size} bytes) from {plan.archive.key}"
    return {
        "inline": "all of it in the user-data",
        "inline-reduced": "in the user-data, with what this job's keys and `agent push` need",
        "inline-minimal": "in the user-data, with what this job's keys need; without `agent push`",
    }[plan.agent]
