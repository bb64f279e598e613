"""The commands for a job's life, from `launch` to `rm`. Each calls the API and prints."""

from pathlib import Path
from typing import Annotated

import typer

from provisioner.cli.options import (
    JobChoice,
    JobFile,
    JsonEvents,
    LocalJob,
    Overrides,
    ProviderName,
    StoreChoice,
    job_command,
    reporter,
    store_command,
    streams,
)
from provisioner.jobs import events
from provisioner.output import Kind


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.command()(launch)
    app.command()(status)
    app.command()(watch)
    app.command()(wait)
    app.command()(logs)
    app.command()(collect)
    app.command()(retry)
    app.command()(terminate)
    app.command("rm")(remove)
    app.command("jobs")(list_jobs)
    app.command()(extend)


def launch(
    context: typer.Context,
    job: JobFile,
    local: LocalJob = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until every task is over")] = False,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Wait, then bring the results to DIR")
    ] = None,
    _json: JsonEvents = False,
) -> None:
    """Sign, render and start a job. Run again after a failure, it goes on where it stopped."""
    from provisioner import api

    output = streams(context)
    if dry_run:
        from provisioner.plan import text

        output.kind = Kind.DOCUMENT if output.as_json else output.kind
        plan = api.plan(job, local=local, provider=provider, overrides=overrides or (), report=output.event)
        output.result(text.show(plan), plan.describe())
        return
    stay = wait or collect is not None
    report = reporter(output, without=events.RENEWAL if stay else "")  # waiting renews: no reminder is needed
    launched = api.launch(job, local=local, provider=provider, overrides=overrides or (), report=report)
    if stay:
        found = launched.wait(check=False)
        if collect is not None:
            launched.collect(collect, check=False)
        launched.require_success(found)


@job_command(json=Kind.DOCUMENT)
def status(chosen: JobChoice) -> None:
    """Tell where every task stands."""
    from provisioner.jobs.status import table

    job = chosen.open()
    found = job.status()
    chosen.output.result(table(found), {"job": job.id, "tasks": [item.data() for item in found]})


@job_command(json=Kind.EVENTS)
def watch(chosen: JobChoice) -> None:
    """Follow a job until all tasks are over, launching its retries. Reports each change. Interrupt it freely."""
    chosen.open().wait()


@job_command()
def wait(chosen: JobChoice) -> None:
    """Wait until all tasks are over, printing nothing. Exits with 1 if one didn't succeed."""
    from provisioner.jobs.renew import alarms

    chosen.open(alarms(chosen.output.event)).wait()


@job_command(task=True)
def logs(chosen: JobChoice) -> None:
    """Print the tasks' output, as far as it was uploaded. Where nothing was, print the VM's console."""
    for piece in chosen.open().logs(chosen.task):
        chosen.output.raw(piece)


@job_command(json=Kind.EVENTS)
def collect(
    chosen: JobChoice,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The folder for the results", show_default="the job's id")
    ] = None,
) -> None:
    """Bring results home, each verified. Safe to run again."""
    job = chosen.open()
    job.collect(folder or Path(job.id))


@job_command(json=Kind.EVENTS, task=True)
def retry(chosen: JobChoice) -> None:
    """Launch the next attempt of tasks that didn't succeed. Takes all that are over, or one."""
    chosen.open().retry(chosen.task)


@job_command()
def terminate(chosen: JobChoice) -> None:
    """End every VM of a job. What they uploaded stays."""
    chosen.open().terminate()


@job_command()
def remove(chosen: JobChoice) -> None:
    """End a job's VMs and delete everything of it from the bucket."""
    chosen.open().remove()


@store_command(json=Kind.DOCUMENT)
def list_jobs(chosen: StoreChoice) -> None:
    """List the jobs of a store, the embedded one if none is named."""
    from provisioner import api

    found = api.jobs(store=chosen.location())
    chosen.output.result("\n".join(found), {"jobs": found})


@job_command(json=Kind.EVENTS, task=True)
def extend(
    chosen: JobChoice,
    life: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="Lifetime of the renewed grants, e.g. 7d (default: the job's `renew`)"
        ),
    ] = None,
) -> None:
    """Renew the grants of a job's running VMs. Each finds the new one in its mailbox. `watch` does so by itself."""
    from provisioner.units import LONGEST_SIGNATURE, option_seconds

    seconds = None if life is None else option_seconds("--for", life, least=1, most=LONGEST_SIGNATURE)
    chosen.open().extend(seconds, task=chosen.task)
