"""`provision render`: a task's user-data, as it is, as a seed, for Terraform, or explained."""

import base64
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from provisioner.cli.options import JobFile, JsonDocument, LocalJob, Overrides, ProviderName, streams
from provisioner.errors import BadInput
from provisioner.output import Event

if TYPE_CHECKING:
    from provisioner.jobs.rendering import Rendering


def register(app: typer.Typer) -> None:
    """Add the command to `provision`."""
    app.command()(render)


def render(
    context: typer.Context,
    job: JobFile,
    local: LocalJob = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Task to render (default: the first)")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what is in the user-data and what each part costs")
    ] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Show who can read each secret, where and until when")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Leave it uncompressed, for platforms that refuse gzip")] = False,
    seed: Annotated[
        Path | None,
        typer.Option(
            "--seed", metavar="DIR|ISO", help="Write NoCloud files to a folder, or to a file that ends in .iso"
        ),
    ] = None,
    stage: Annotated[
        bool,
        typer.Option(
            "--stage", help="Upload the inputs and the record of the job, so that it can be watched and collected"
        ),
    ] = False,
    form: Annotated[
        Literal["user-data", "terraform"],
        typer.Option("--format", help="Answer as Terraform's external data source, or print the user-data"),
    ] = "user-data",
    _json: JsonDocument = False,
) -> None:
    """Print a task's user-data, for a VM that something else starts. It holds the task's signed policies."""
    output, terraform = streams(context), form == "terraform"
    if output.as_json and not (explain or audit or seed):
        reason = "--format terraform is JSON already" if terraform else "user-data is no JSON"
        raise BadInput(f"{reason}: --json is for --explain, --audit and --seed", hint="leave out --json")
    wanted = [explain, audit, seed is not None, terraform]
    if sum(wanted) > 1:
        raise BadInput("--explain, --audit, --seed and --format: each would be the output", hint="give one")
    changes = list(overrides or ())
    if terraform:
        task, more = _query(task)
        changes += more
    from provisioner import api

    made = api.render(
        job,
        task=task,
        local=local,
        provider=provider,
        overrides=changes,
        stage=stage,
        raw=raw,
        as_launched=explain or audit,
        report=output.event,
    )
    if explain:
        from provisioner.plan.text import agent
        from provisioner.userdata.render import explain_user_data

        source = f"The agent: {agent(made.plan)}, as launched or staged"
        text = f"{explain_user_data(made.user_data, made.plan.user_data_limit)}\n\n{source}"
        output.result(text, [asdict(line) for line in made.user_data.ledger()])
    elif audit:
        from provisioner.userdata.audit import as_data, find_secrets, show_secrets

        secrets = find_secrets(made.plan, made.grant, made.user_data, made.platform)
        output.result(show_secrets(secrets), as_data(secrets))
    elif seed is not None:
        from provisioner.userdata.seed import task_files, write

        write(task_files(made.plan, made.task, made.data), seed)
        text = f"wrote {seed}; it holds the task's policies"
        output.outcome(Event("seed", text, {"path": str(seed), "job": made.plan.job}))
    elif terraform:
        output.raw(json.dumps(_answer(made)).encode() + b"\n")
    else:
        output.raw(made.data)


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


def _answer(made: "Rendering") -> dict[str, Any]:
    """The flat map of strings that Terraform takes (its "External Data Source" protocol)."""
    from provisioner.clock import iso

    plan = made.plan
    return {
        **({"user_data": made.user_data.plain.decode()} if plan.raw else {}),  # what isn't sent isn't held to the limit
        "user_data_base64": base64.b64encode(made.data).decode(),
        "job": plan.job,
        "task": made.task.task,
        "attempt": str(made.task.attempt),
        "deadline": iso(plan.deadline),
        "expires": iso(plan.expires),
    }
