"""The `provision` command: parses, calls, prints. Every decision is made elsewhere; exit codes are in `errors`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent import __version__
from provisioner.cli import extend, image, links, maintenance, render, service
from provisioner.cli.options import (
    Endpoint,
    JobFile,
    JobName,
    JsonDocument,
    JsonEvents,
    Overrides,
    ProviderName,
    StoreUrl,
    Task,
    streams,
)
from provisioner.errors import BadInput, FreepostError, Incomplete, Integrity
from provisioner.output import Event, Kind, Output

if TYPE_CHECKING:
    from provisioner.jobs.collect import Collected
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.toolbox import OpenStore

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
store_app = typer.Typer(help="The embedded store: an S3 server of your own, on this machine.", no_args_is_help=True)
app.add_typer(store_app, name="store")


def _tell_version(*, value: bool) -> None:
    if value:
        typer.echo(f"provision {__version__}")
        raise typer.Exit


@app.callback()
def provision(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Launch batch VMs that hold no credentials, and bring their results home."""


@app.command()
def launch(
    context: typer.Context,
    job: JobFile,
    local: Annotated[
        bool, typer.Option("--local", help="Use the embedded store and no VM: the job runs here, not isolated.")
    ] = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until every task is over.")] = False,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Wait, then bring the results to DIR.")
    ] = None,
    _json: JsonEvents = False,
) -> None:
    """Sign, render and start a job. Run again after a failure, it goes on where it stopped."""
    from provisioner.jobs import renew, watch
    from provisioner.jobs import toolbox as session
    from provisioner.plan import text

    output = streams(context)
    if dry_run and output.as_json:
        output.kind = Kind.DOCUMENT
    spec = session.load_spec(job, overrides or (), provider)
    place, name = session.choose(spec, local=local, provider=provider)
    opened = session.open_place(place)
    using = session.make_provider(name, opened, spec.vm.options)
    launcher = session.launcher(opened, using, output.event)
    if dry_run:
        plan = launcher.plan(spec)
        launcher.rehearse(plan)
        output.result(text.show(plan), plan.describe())
        return
    session.notice(using, output.event)
    record = launcher.launch(spec)
    session.index().remember(record.job, opened.place.store, embedded=opened.place.embedded)
    output.event(Event("job", f"job {record.job}", {"job": record.job, "store": repr(opened.store)}))
    duty = renew.renewal_reminder(record)
    if duty is not None and not wait and collect is None:
        output.event(duty)
    if wait or collect is not None:
        found = session.watcher(opened, using, output.event).wait(record, launched=True)
        if collect is not None:
            _collect(output, opened, record, collect)
        watch.require_success(record, found)


@app.command()
def status(
    context: typer.Context,
    job: JobName,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    _json: JsonDocument = False,
) -> None:
    """Tell where every task stands."""
    from provisioner.jobs import toolbox as session
    from provisioner.jobs import watch

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    rows = watch.describe(session.observer(opened, using, output.event), record)
    output.result(watch.table(rows), {"job": record.job, "tasks": rows})


@app.command("watch")
def watch_job(
    context: typer.Context,
    job: JobName,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    _json: JsonEvents = False,
) -> None:
    """Report every change until all tasks are over, launching retries the job has left. Interrupt freely."""
    _follow(streams(context), job, store, endpoint_url)


@app.command()
def wait(context: typer.Context, job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """Wait quietly until all tasks are over; exit with 1 if one didn't succeed."""
    _follow(streams(context), job, store, endpoint_url, quiet=True)


def _follow(output: Output, job: str, store: str | None, endpoint_url: str | None, *, quiet: bool = False) -> None:
    from provisioner.jobs import renew, watch
    from provisioner.jobs import toolbox as session

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    report = renew.alarms(output.event) if quiet else output.event
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    watch.require_success(record, session.watcher(opened, using, report).wait(record))


@app.command()
def logs(
    context: typer.Context, job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None, task: Task = None
) -> None:
    """Print what the tasks printed, as far as it was uploaded; what the VM's console said where there is none."""
    from provisioner.jobs import logs as printed
    from provisioner.jobs import toolbox as session

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    for piece in printed.logs(opened.store, using, record, task):
        output.raw(piece)


@app.command("collect")
def collect_job(
    context: typer.Context,
    job: JobName,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to.", show_default="the job's id")
    ] = None,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    _json: JsonEvents = False,
) -> None:
    """Bring results home, each verified. Safe to run again."""
    from provisioner.jobs import toolbox as session

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    done = _collect(output, opened, record, folder or Path(record.job))
    session.revoke_over(opened, record, output.event)
    if done.missing:
        names = ", ".join(f"{item.task} ({item.event})" for item in done.missing[:10])
        message = f"{len(done.missing)} of {len(record.spec.tasks)} tasks have not succeeded: {names}"
        raise Incomplete(message, hint="collect again when they have")


def _collect(output: Output, opened: "OpenStore", record: "JobRecord", folder: Path) -> "Collected":
    from provisioner.jobs import collect as collecting

    done = collecting.collect(opened.store, record, folder, output.event)
    data = {"folder": str(folder), "files": done.files, "bytes": done.bytes, "already": done.already}
    output.summary(Event("collect", collecting.summary(done, folder), {**data, "failed": done.failed}))
    if done.failed:
        message = f"{len(done.failed)} files of {record.job} could not be collected"
        raise (Integrity if done.damaged else Incomplete)(
            message, hint="the lines above say which and why; collect again"
        )
    return done


@app.command()
def retry(
    context: typer.Context,
    job: JobName,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    task: Task = None,
    _json: JsonEvents = False,
) -> None:
    """Launch the next attempt of every task that is over and didn't succeed, or of one task."""
    from provisioner.jobs import renew, revoke, watch
    from provisioner.jobs import toolbox as session

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    revoke.check(opened.store, record)
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    launcher, known = session.launcher(opened, using, output.event), record
    record = launcher.recover(record)
    again = watch.to_retry(session.observer(opened, using, output.event), record, task, required=record is known)
    if again:
        record = launcher.retry(record, again)
    duty = renew.renewal_reminder(record)
    if duty is not None:
        output.event(duty)


@app.command()
def terminate(context: typer.Context, job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """End every VM of a job. What they uploaded stays."""
    from provisioner.jobs import renew, watch
    from provisioner.jobs import toolbox as session

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    count = watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    renew.drop(opened.store, record)
    session.revoke_over(opened, record, output.event, ended=True)
    output.event(Event("terminated", f"{record.job}: its {count} VMs are ended", {"job": record.job, "vms": count}))


@app.command("rm")
def remove(context: typer.Context, job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """End a job's VMs and delete everything of it from the bucket."""
    from provisioner.jobs import index, watch
    from provisioner.jobs import toolbox as session

    output = streams(context)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    revoking = session.revoker(opened, output.event)
    if revoking is not None:
        revoking.whole(record)
    count = index.remove(opened.store, record)
    session.index().forget(record.job)
    output.event(Event("removed", f"{record.job}: {count} objects deleted", {"job": record.job, "objects": count}))


@app.command("jobs")
def list_jobs(
    context: typer.Context, store: StoreUrl = None, endpoint_url: Endpoint = None, _json: JsonDocument = False
) -> None:
    """List the jobs of a store, the embedded one if none is named."""
    from provisioner.jobs import index
    from provisioner.jobs import toolbox as session

    output = streams(context)
    place = session.named_place(store, endpoint_url) or session.embedded_place(None, "")
    found = index.listing(session.open_place(place).store)
    output.result("\n".join(found), {"jobs": found})


@store_app.command("start")
def store_start(
    context: typer.Context,
    buckets: Annotated[list[str] | None, typer.Argument(metavar="[BUCKET]...", help="Buckets to make.")] = None,
    _json: JsonDocument = False,
) -> None:
    """Start the store, or find the running one."""
    from provisioner.jobs import toolbox as session

    output = streams(context)
    running = session.embedded_store().start(buckets or ())
    output.result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


@store_app.command("stop")
def store_stop(context: typer.Context) -> None:
    """Stop the store. Its data stays."""
    from provisioner.jobs import toolbox as session

    output = streams(context)
    stopped = session.embedded_store().stop()
    output.event(Event("stopped", "the store is stopped" if stopped else "the store was not running"))


@store_app.command("status")
def store_status(context: typer.Context, _json: JsonDocument = False) -> None:
    """Tell whether the store runs, and where; exit with 7 if it doesn't. With --json, its keys too."""
    from provisioner.jobs import toolbox as session

    output = streams(context)
    running = session.running_store()
    output.result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


for module in (extend, maintenance, image, links, render, service):
    module.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. The only place that turns an error into text."""
    words = sys.argv[1:] if arguments is None else arguments
    output, as_json = Output(sys.stdout, sys.stderr), "--json" in words
    try:
        return app(words, prog_name="provision", obj=output, standalone_mode=not as_json) or 0
    except FreepostError as error:
        output.error(error)
        return error.exit_code
    except typer.TyperException as error:  # of usage; --json may come later than what is wrong
        output.kind = Kind.DOCUMENT if output.kind is Kind.TEXT else output.kind
        context: typer.Context | None = getattr(error, "ctx", None)
        output.error(BadInput(error.format_message(), hint=context.get_usage() if context else ""))
        return BadInput.exit_code
    except SystemExit as end:  # how typer ends: 0, 2 for usage, 130 for an interrupt; 1 if standard output was closed
        return end.code if isinstance(end.code, int) else BadInput.exit_code
