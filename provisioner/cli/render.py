"""`provision render`: a task's user-data, as it is, as a seed, for Terraform, or explained."""

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
    local: Annotated[
        bool, typer.Option("--local", help="Render for the embedded store and the local provider")
    ] = False,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Provider whose limits apply")
    ] = None,
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
    """Print a task's user-data, ready to be given to a VM by other means. It holds the task's signed policies."""
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
    request = _Request(job, changes, task, local, provider, stage, raw, explain or audit)
    made = _render(output, request)
    if explain:
        from provisioner.plan.text import agent
        from provisioner.userdata.render import explain as explained

        source = f"The agent: {agent(made.plan)}, as launched or staged"
        text = f"{explained(made.user_data, made.plan.user_data_limit)}\n\n{source}"
        output.result(text, [asdict(line) for line in made.user_data.ledger()])
    elif audit:
        from provisioner.userdata.audit import as_data, find_secrets, show_secrets

        secrets = find_secrets(made.plan, made.grant, made.user_data, made.platform)
        output.result(show_secrets(secrets), as_data(secrets))
    elif seed is not None:
        from provisioner.userdata.seed import task_files, write

        write(task_files(made.plan, made.task, made.user_data.data), seed)
        text = f"wrote {seed}; it holds the task's policies"
        output.outcome(Event("seed", text, {"path": str(seed), "job": made.plan.job}))
    elif terraform:
        output.raw(json.dumps(_answer(made)).encode() + b"\n")
    else:
        output.raw(made.user_data.data)


@dataclass(frozen=True)
class _Request:
    """What the command line says. Whoever is only `looking` is shown what a launch gives its VMs."""

    job: Path
    overrides: Sequence[str]
    task: str | None
    local: bool
    provider: str | None
    stage: bool
    raw: bool
    looking: bool


@dataclass(frozen=True)
class _Rendered:
    """A task's user-data and what it was made from. `platform` is a provider's name, empty for one that isn't ours."""

    plan: "Plan"
    task: "TaskPlan"
    grant: "Grant"
    user_data: "UserData"
    platform: str


def _render(output: Output, request: _Request) -> _Rendered:
    """Render, validate, and stage the job or say what the VM would miss."""
    from provisioner.cli.context import choose, index, launcher, load_spec, make_provider, open_place
    from provisioner.userdata import validate

    spec = load_spec(request.job, request.overrides, request.provider)
    # With no provider named, the platform is one that we don't drive. Its limit isn't known, so the tightest holds.
    platform = "local" if request.local else request.provider or spec.vm.provider or ""
    place, name = choose(spec, local=request.local, provider=platform or "local")
    opened = open_place(place)
    launching = launcher(
        opened, make_provider(name if platform else "elsewhere", opened, spec.vm.options), output.event
    )
    plan = launching.plan(spec, raw=request.raw, staged=request.stage or request.looking)
    task = plan.task(request.task)
    if request.stage:  # a job of this task alone, tried once: nobody here can start another VM
        array = (int(request.task or task.members[0]),) if spec.array else ()
        plan = launching.plan(replace(spec, array=array, retries=0), raw=request.raw)
        task = plan.task(None)
    grant, user_data = launching.render(plan, task, use=request.stage)
    validate.check(user_data.plain, output.event, quiet=platform == "local")
    if request.stage:
        launching.stage(plan)
        index().remember(plan.job, opened.place.store, embedded=opened.place.embedded)
        output.event(Event("job", f"job {plan.job}", {"job": plan.job, "store": repr(opened.store)}))
    _note_missing(output, plan, request)
    return _Rendered(plan, task, grant, user_data, platform)


def _note_missing(output: Output, plan: "Plan", request: _Request) -> None:
    """Say what a VM with this user-data would have to do without."""
    if plan.spec.renew and not request.stage:
        text = "note: nobody can renew what this VM may do, since nothing is recorded of it; --stage does that"
        output.event(Event("not recorded", text, {"job": plan.job}))
    fetched = [*plan.downloads, *([plan.archive] if plan.archive and not request.looking else [])]
    if fetched and not request.stage:
        names = ", ".join([*(item.path for item in fetched), *["its grant"] * (plan.apart and not request.looking)])
        text = f"note: the VM will fetch {names} from the bucket, and that render uploads with --stage only"
        output.event(Event("not staged", text, {"keys": [item.key for item in fetched]}))
    if plan.agent == "needed":
        text = "note: `agent push` and the like had no room in this user-data; with --stage they come from the bucket"
        output.event(Event("left out", text, {"job": plan.job, "agent": plan.agent}))


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


def _answer(made: _Rendered) -> dict[str, Any]:
    """The flat map of strings that Terraform takes (its "External Data Source" protocol)."""
    from provisioner.clock import iso

    plan, user_data = made.plan, made.user_data
    return {
        **({"user_data": user_data.plain.decode()} if plan.raw else {}),  # what isn't sent isn't held to the limit
        "user_data_base64": base64.b64encode(user_data.data).decode(),
        "job": plan.job,
        "task": made.task.task,
        "attempt": str(made.task.attempt),
        "deadline": iso(plan.deadline),
        "expires": iso(plan.expires),
    }
