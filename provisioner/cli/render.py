"""`provision render`: a task's user-data, as it is, as a seed, for Terraform, or explained."""

import base64
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from provisioner.cli.options import JobFile, JsonDocument, Overrides, streams
from provisioner.errors import BadInput
from provisioner.output import Event, Output

if TYPE_CHECKING:
    from agent.grant import Grant
    from provisioner.plan.plan import Plan, TaskPlan
    from provisioner.userdata.render import UserData


def register(app: typer.Typer) -> None:
    """Add the command to `provision`."""
    app.command()(render)


def render(
    context: typer.Context,
    job: JobFile,
    local: Annotated[bool, typer.Option("--local", help="For the embedded store and the local provider.")] = False,
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Whose limits to keep to.")] = None,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="This task, not the first.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what is in it and what each part costs.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Say who can read each secret, where, until when.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Not gzipped, for platforms that refuse gzip.")] = False,
    seed: Annotated[
        Path | None, typer.Option("--seed", metavar="DIR|ISO", help="Write NoCloud files to DIR, or to a file.iso.")
    ] = None,
    stage: Annotated[
        bool,
        typer.Option("--stage", help="Upload its inputs and record, so that the job can be watched and collected."),
    ] = False,
    form: Annotated[
        Literal["user-data", "terraform"],
        typer.Option("--format", help="terraform: answer as a program of the external data source."),
    ] = "user-data",
    _json: JsonDocument = False,
) -> None:
    """Print a task's user-data, ready to be given to a VM by other means. It holds the task's signed policies."""
    output, terraform = streams(context), form == "terraform"
    if output.as_json and not (explain or audit or seed):
        reason = "--format terraform is JSON already" if terraform else "user-data is no JSON"
        raise BadInput(f"{reason}: --json is for --explain, --audit and --seed", hint="leave out --json")
    wanted = [explain, audit, seed is not None, terraform]
    if sum(wanted) > 1:
        raise BadInput("--explain, --audit, --seed and --format terraform each want the output", hint="give one")
    changes = list(overrides or ())
    if terraform:
        task, more = _query(task)
        changes += more
    plan, chosen, grant, made, platform = _rendered(
        output, job, changes, task, local=local, provider=provider, stage=stage, raw=raw, looking=explain or audit
    )
    if explain:
        from provisioner.plan import text as plan_text
        from provisioner.userdata import render as userdata

        agent = f"The agent: {plan_text.agent(plan)}, as launched or staged"
        text = f"{userdata.explain(made, plan.user_data_limit)}\n\n{agent}"
        output.result(text, [asdict(line) for line in made.ledger()])
    elif audit:
        from provisioner.userdata import audit as auditing

        secrets = auditing.audit(plan, grant, made, platform)
        output.result(auditing.show(secrets), auditing.data(secrets))
    elif seed is not None:
        from provisioner.userdata import seed as seeds

        seeds.write(seeds.files(plan, chosen, made.data), seed)
        text = f"wrote {seed}; it holds the task's policies"
        output.outcome(Event("seed", text, {"path": str(seed), "job": plan.job}))
    elif terraform:
        output.raw(json.dumps(_answer(plan, chosen, made)).encode() + b"\n")
    else:
        output.raw(made.data)


def _rendered(
    output: Output,
    job: Path,
    overrides: list[str],
    task: str | None,
    *,
    local: bool,
    provider: str | None,
    stage: bool,
    raw: bool,
    looking: bool,
) -> "tuple[Plan, TaskPlan, Grant, UserData, str]":
    """Render, validate, and stage the job or say what the VM would miss. The last is the platform's name.

    Whoever is only `looking` is shown what a launch gives its VMs.
    """
    from provisioner.jobs import toolbox as session
    from provisioner.userdata import validate

    spec = session.load_spec(job, overrides, provider)
    # With no provider named, the platform is one that we don't drive. Its limit isn't known, so the tightest holds.
    platform = "local" if local else provider or spec.vm.provider or ""
    place, name = session.choose(spec, local=local, provider=platform or "local")
    opened = session.open_place(place)
    using = session.make_provider(name if platform else "elsewhere", opened, spec.vm.options)
    launcher = session.launcher(opened, using, output.event)
    plan = launcher.plan(spec, raw=raw, staged=stage or looking)
    chosen = plan.task(task)
    if stage:  # a job of this task alone, tried once: nobody here can start another VM
        array = (int(task or chosen.members[0]),) if spec.array else ()
        plan = launcher.plan(replace(spec, array=array, retries=0), raw=raw)
        chosen = plan.task(None)
    grant, made = launcher.render(plan, chosen, use=stage)
    validate.require(made.plain, output.event, quiet=platform == "local")
    if plan.spec.renew and not stage:
        text = "note: nobody can renew what this VM may do, since nothing is recorded of it; --stage does that"
        output.event(Event("not recorded", text, {"job": plan.job}))
    if stage:
        launcher.stage(plan)
        session.index().remember(plan.job, opened.place.store, embedded=opened.place.embedded)
        output.event(Event("job", f"job {plan.job}", {"job": plan.job, "store": repr(opened.store)}))
    elif fetched := [*plan.downloads, *([plan.archive] if plan.archive and not looking else [])]:
        names = ", ".join([*(item.path for item in fetched), *["its grant"] * (plan.apart and not looking)])
        text = f"note: the VM will fetch {names} from the bucket, and that render uploads with --stage only"
        output.event(Event("not staged", text, {"keys": [item.key for item in fetched]}))
    if plan.agent == "needed":
        text = "note: `agent push` and the like had no room in this user-data; with --stage they come from the bucket"
        output.event(Event("left out", text, {"job": plan.job, "agent": plan.agent}))
    return plan, chosen, grant, made, platform


def _query(task: str | None) -> tuple[str | None, list[str]]:
    """Read Terraform's query: keys of the job to change, as --set would, and `task`. Raise BadInput for any other."""
    try:
        query = json.loads(sys.stdin.buffer.read())
        wrong = not isinstance(query, dict) or any(not isinstance(value, str) for value in query.values())
    except ValueError:
        wrong = True
    if wrong:
        raise BadInput(
            "standard input is not Terraform's query, a JSON object of strings",
            hint="this format is for data.external; by hand: echo '{}' | provision render …",
        )
    return query.pop("task", task), [f"{key}={value}" for key, value in query.items()]


def _answer(plan: "Plan", task: "TaskPlan", made: "UserData") -> dict[str, Any]:
    """The flat map of strings that Terraform takes (its "External Data Source" protocol)."""
    from provisioner.clock import iso

    return {
        **({"user_data": made.plain.decode()} if plan.raw else {}),  # what isn't sent isn't held to the limit
        "user_data_base64": base64.b64encode(made.data).decode(),
        "job": plan.job,
        "task": task.task,
        "attempt": str(task.attempt),
        "deadline": iso(plan.deadline),
        "expires": iso(plan.expires),
    }
