"""The `provision` command: parses, calls, prints. Every decision is made elsewhere; exit codes are in `errors`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner import cli_extend, cli_fleet, cli_image, cli_links, cli_render, cli_service
from provisioner.errors import BadInput, FreepostError, Incomplete, Integrity
from provisioner.options import Endpoint, JobFile, JobName, Json, Overrides, ProviderName, StoreUrl, Task, streams
from provisioner.output import Event

if TYPE_CHECKING:
    from provisioner.collect import Collected
    from provisioner.output import Output
    from provisioner.record import JobRecord
    from provisioner.session import Opened

app = typer.Typer(
    help="Launch batch VMs that hold no credentials, and bring their results home.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
store_app = typer.Typer(help="The embedded store: an S3 server of your own, on this machine.", no_args_is_help=True)
app.add_typer(store_app, name="store")

Local = Annotated[
    bool, typer.Option("--local", help="Use the embedded store and no VM: the job runs here, not isolated.")
]


@app.command()
def launch(  # noqa: PLR0913, PLR0917 - flags
    job: JobFile,
    local: Local = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until every task is over.")] = False,
    collect: Annotated[
        Path | None, typer.Option("--collect", metavar="DIR", help="Wait, then bring the results to DIR.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign, render and start a job. Run again after a failure, it goes on where it stopped."""
    from provisioner import plan as planning
    from provisioner import renew, session, watch

    output = streams(as_json=as_json)
    spec = session.load_spec(job, overrides or [], provider)
    place, name = session.choose(spec, local=local, provider=provider)
    opened = session.open_place(place)
    using = session.make_provider(name, opened, spec.vm.options)
    launcher = session.launcher(opened, using, output.event)
    if dry_run:
        plan = launcher.plan(spec)
        launcher.rehearse(plan)
        output.result(planning.show(plan), plan.describe())
        return
    session.notice(using, output.event)
    record = launcher.launch(spec)
    session.index().remember(record.job, opened.place.store, embedded=opened.place.embedded)
    output.event(Event("job", f"job {record.job}", {"job": record.job, "store": repr(opened.store)}))
    duty = renew.duty(record)
    if duty is not None and not wait and collect is None:
        output.event(duty)
    if wait or collect is not None:
        found = session.watcher(opened, using, output.event).wait(record, launched=True)
        if collect is not None:
            _collect(output, opened, record, collect)
        watch.require_success(record, found)


@app.command()
def status(job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None, as_json: Json = False) -> None:
    """Tell where every task stands."""
    from provisioner import session, watch

    output = streams(as_json=as_json)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    following = session.watcher(
        opened, session.make_provider(record.provider, opened, record.spec.vm.options), output.event
    )
    rows = watch.describe(following, record)
    output.result(watch.table(rows), {"job": record.job, "tasks": rows})


@app.command("watch")
def watch_job(job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None, as_json: Json = False) -> None:
    """Report every change until all tasks are over, launching retries the job has left. Interrupt freely."""
    _follow(streams(as_json=as_json), job, store, endpoint_url)


@app.command()
def wait(job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """Wait quietly until all tasks are over; exit with 1 if one didn't succeed."""
    _follow(streams(), job, store, endpoint_url, quiet=True)


def _follow(output: Output, job: str, store: str | None, endpoint_url: str | None, *, quiet: bool = False) -> None:
    from provisioner import renew, session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    report = renew.alarms(output.event) if quiet else output.event
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    watch.require_success(record, session.watcher(opened, using, report).wait(record))


@app.command()
def logs(job: JobName, task: Task = None, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """Print what the tasks printed, as far as it was uploaded; what the VM's console said where there is none."""
    from provisioner import logs as printed
    from provisioner import session

    output = streams()
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    for piece in printed.logs(opened.store, using, record, task):
        output.raw(piece)


@app.command("collect")
def collect_job(
    job: JobName,
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where to; the job's id if not given.")] = None,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Bring results home, each verified. Safe to run again."""
    from provisioner import session

    output = streams(as_json=as_json)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    done = _collect(output, opened, record, folder or Path(record.job))
    session.revoke_over(opened, record, output.event)
    if done.missing:
        names = ", ".join(f"{item.task} ({item.event})" for item in done.missing[:10])
        message = f"{len(done.missing)} of {len(record.spec.tasks)} tasks have not succeeded: {names}"
        raise Incomplete(message, hint="collect again when they have")


def _collect(output: Output, opened: Opened, record: JobRecord, folder: Path) -> Collected:
    from provisioner import collect as collecting

    done = collecting.collect(opened.store, record, folder, output.event)
    data = {
        "event": "collect",
        "folder": str(folder),
        "files": done.files,
        "bytes": done.bytes,
        "already": done.already,
    }
    output.result(collecting.summary(done, folder), {**data, "failed": done.failed})
    if done.failed:
        message = f"{len(done.failed)} files of {record.job} could not be collected"
        raise (Integrity if done.damaged else Incomplete)(
            message, hint="the lines above say which and why; collect again"
        )
    return done


@app.command()
def retry(
    job: JobName, task: Task = None, store: StoreUrl = None, endpoint_url: Endpoint = None, as_json: Json = False
) -> None:
    """Launch the next attempt of every task that is over and didn't succeed, or of one task."""
    from provisioner import renew, revoke, session, watch

    output = streams(as_json=as_json)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    revoke.check(opened.store, record)
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    launcher, known = session.launcher(opened, using, output.event), record
    record = launcher.recover(record)
    again = watch.to_retry(session.watcher(opened, using, output.event), record, task, required=record is known)
    if again:
        record = launcher.retry(record, again)
    duty = renew.duty(record)
    if duty is not None:
        output.event(duty)


@app.command()
def terminate(job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """End every VM of a job. What they uploaded stays."""
    from provisioner import renew, session, watch

    output = streams()
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    count = watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    renew.drop(opened.store, record)
    session.revoke_over(opened, record, output.event, ended=True)
    output.event(Event("terminated", f"{record.job}: its {count} VMs are ended", {"job": record.job, "vms": count}))


@app.command("rm")
def remove(job: JobName, store: StoreUrl = None, endpoint_url: Endpoint = None) -> None:
    """End a job's VMs and delete everything of it from the bucket."""
    from provisioner import jobs, session, watch

    output = streams()
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    revoking = session.revoker(opened, output.event)
    if revoking is not None:
        revoking.whole(record)
    count = jobs.remove(opened.store, record)
    session.index().forget(record.job)
    output.event(Event("removed", f"{record.job}: {count} objects deleted", {"job": record.job, "objects": count}))


@app.command("jobs")
def list_jobs(store: StoreUrl = None, endpoint_url: Endpoint = None, as_json: Json = False) -> None:
    """List the jobs of a store, the embedded one if none is named."""
    from provisioner import jobs, session

    output = streams(as_json=as_json)
    place = session.named_place(store, endpoint_url) or session.embedded_place(None, "")
    found = jobs.listing(session.open_place(place).store)
    output.result("\n".join(found), {"jobs": found})


@store_app.command("start")
def store_start(
    buckets: Annotated[list[str] | None, typer.Argument(metavar="[BUCKET]...", help="Buckets to make.")] = None,
    as_json: Json = False,
) -> None:
    """Start the store, or find the running one."""
    from provisioner import session

    running = session.embedded_store().start(buckets or [])
    streams(as_json=as_json).result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


@store_app.command("stop")
def store_stop() -> None:
    """Stop the store. Its data stays."""
    from provisioner import session

    stopped = session.embedded_store().stop()
    streams().event(
        Event(
            "stopped" if stopped else "not running", "the store is stopped" if stopped else "the store was not running"
        )
    )


@store_app.command("status")
def store_status(as_json: Json = False) -> None:
    """Tell whether the store runs, and where; exit with 7 if it doesn't. With --json, its keys too."""
    from provisioner import session

    output = streams(as_json=as_json)
    running = session.running_store()
    output.result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


cli_extend.register(app)
cli_fleet.register(app)
cli_image.register(app)
cli_links.register(app)
cli_render.register(app)
cli_service.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. The only place that turns an error into text."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        app(words, prog_name="provision")
    except FreepostError as error:
        streams(as_json="--json" in words).error(error)
        return error.exit_code
    except SystemExit as end:  # how typer ends: 0, 2 for usage, 130 for an interrupt
        return end.code if isinstance(end.code, int) else BadInput.exit_code
    return 0
