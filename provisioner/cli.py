"""The `provision` command: parses, calls, prints. Every decision is made elsewhere; exit codes are in `errors`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent import __version__
from provisioner import cli_extend, cli_fleet, cli_image, cli_links, cli_render, cli_service, options
from provisioner.errors import BadInput, FreepostError, Incomplete, Integrity
from provisioner.output import Event, Kind, Output

if TYPE_CHECKING:
    from provisioner.collect import Collected
    from provisioner.record import JobRecord
    from provisioner.session import Opened

INTERRUPTED = 130


class Group(click.Group):
    """Lists its commands in the order of a job's life, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name them."""
        return list(self.commands)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Launch batch VMs that hold no credentials, and bring their results home."""


@click.group("store")
def store_app() -> None:
    """The embedded store: an S3 server of your own, on this machine."""


@app.command()
@options.job_file
@click.option("--local", is_flag=True, help="Use the embedded store and no VM: the job runs here, not isolated.")
@options.provider
@options.overrides
@click.option("--dry-run", is_flag=True, help="Print the plan, change nothing.")
@click.option("--wait", is_flag=True, help="Stay until every task is over.")
@click.option("--collect", type=options.FILE, metavar="DIR", help="Wait, then bring the results to DIR.")
@options.json_events
@click.pass_obj
def launch(  # noqa: PLR0913 - flags
    output: Output,
    *,
    job: Path,
    local: bool,
    provider: str | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    collect: Path | None,
) -> None:
    """Sign, render and start a job. Run again after a failure, it goes on where it stopped."""
    from provisioner import plan as planning
    from provisioner import renew, session, watch

    if dry_run and output.as_json:
        output.kind = Kind.DOCUMENT
    spec = session.load_spec(job, overrides, provider)
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
@options.launched_job
@options.json_document
@click.pass_obj
def status(output: Output, job: str, store: str | None, endpoint_url: str | None) -> None:
    """Tell where every task stands."""
    from provisioner import session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    rows = watch.describe(session.observer(opened, using, output.event), record)
    output.result(watch.table(rows), {"job": record.job, "tasks": rows})


@app.command("watch")
@options.launched_job
@options.json_events
@click.pass_obj
def watch_job(output: Output, job: str, store: str | None, endpoint_url: str | None) -> None:
    """Report every change until all tasks are over, launching retries the job has left. Interrupt freely."""
    _follow(output, job, store, endpoint_url)


@app.command()
@options.launched_job
@click.pass_obj
def wait(output: Output, job: str, store: str | None, endpoint_url: str | None) -> None:
    """Wait quietly until all tasks are over; exit with 1 if one didn't succeed."""
    _follow(output, job, store, endpoint_url, quiet=True)


def _follow(output: Output, job: str, store: str | None, endpoint_url: str | None, *, quiet: bool = False) -> None:
    from provisioner import renew, session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    report = renew.alarms(output.event) if quiet else output.event
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    watch.require_success(record, session.watcher(opened, using, report).wait(record))


@app.command()
@options.launched_job
@options.task
@click.pass_obj
def logs(output: Output, job: str, task: str | None, store: str | None, endpoint_url: str | None) -> None:
    """Print what the tasks printed, as far as it was uploaded; what the VM's console said where there is none."""
    from provisioner import logs as printed
    from provisioner import session

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    for piece in printed.logs(opened.store, using, record, task):
        output.raw(piece)


@app.command("collect")
@options.launched_job
@click.argument("folder", metavar="[DIR]", type=options.FILE, required=False, help="Where to [default: the job's id].")
@options.json_events
@click.pass_obj
def collect_job(output: Output, job: str, folder: Path | None, store: str | None, endpoint_url: str | None) -> None:
    """Bring results home, each verified. Safe to run again."""
    from provisioner import session

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
    data = {"folder": str(folder), "files": done.files, "bytes": done.bytes, "already": done.already}
    output.summary(Event("collect", collecting.summary(done, folder), {**data, "failed": done.failed}))
    if done.failed:
        message = f"{len(done.failed)} files of {record.job} could not be collected"
        raise (Integrity if done.damaged else Incomplete)(
            message, hint="the lines above say which and why; collect again"
        )
    return done


@app.command()
@options.launched_job
@options.task
@options.json_events
@click.pass_obj
def retry(output: Output, job: str, task: str | None, store: str | None, endpoint_url: str | None) -> None:
    """Launch the next attempt of every task that is over and didn't succeed, or of one task."""
    from provisioner import renew, revoke, session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    revoke.check(opened.store, record)
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    launcher, known = session.launcher(opened, using, output.event), record
    record = launcher.recover(record)
    again = watch.to_retry(session.observer(opened, using, output.event), record, task, required=record is known)
    if again:
        record = launcher.retry(record, again)
    duty = renew.duty(record)
    if duty is not None:
        output.event(duty)


@app.command()
@options.launched_job
@click.pass_obj
def terminate(output: Output, job: str, store: str | None, endpoint_url: str | None) -> None:
    """End every VM of a job. What they uploaded stays."""
    from provisioner import renew, session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    count = watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    renew.drop(opened.store, record)
    session.revoke_over(opened, record, output.event, ended=True)
    output.event(Event("terminated", f"{record.job}: its {count} VMs are ended", {"job": record.job, "vms": count}))


@app.command("rm")
@options.launched_job
@click.pass_obj
def remove(output: Output, job: str, store: str | None, endpoint_url: str | None) -> None:
    """End a job's VMs and delete everything of it from the bucket."""
    from provisioner import jobs, session, watch

    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    watch.terminate(session.make_provider(record.provider, opened, record.spec.vm.options), record)
    revoking = session.revoker(opened, output.event)
    if revoking is not None:
        revoking.whole(record)
    count = jobs.remove(opened.store, record)
    session.index().forget(record.job)
    output.event(Event("removed", f"{record.job}: {count} objects deleted", {"job": record.job, "objects": count}))


@app.command("jobs")
@options.store
@options.endpoint_url
@options.json_document
@click.pass_obj
def list_jobs(output: Output, store: str | None, endpoint_url: str | None) -> None:
    """List the jobs of a store, the embedded one if none is named."""
    from provisioner import jobs, session

    place = session.named_place(store, endpoint_url) or session.embedded_place(None, "")
    found = jobs.listing(session.open_place(place).store)
    output.result("\n".join(found), {"jobs": found})


@store_app.command("start")
@click.argument("buckets", metavar="[BUCKET]...", nargs=-1, help="Buckets to make.")
@options.json_document
@click.pass_obj
def store_start(output: Output, buckets: tuple[str, ...]) -> None:
    """Start the store, or find the running one."""
    from provisioner import session

    running = session.embedded_store().start(buckets)
    output.result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


@store_app.command("stop")
@click.pass_obj
def store_stop(output: Output) -> None:
    """Stop the store. Its data stays."""
    from provisioner import session

    stopped = session.embedded_store().stop()
    output.event(Event("stopped", "the store is stopped" if stopped else "the store was not running"))


@store_app.command("status")
@options.json_document
@click.pass_obj
def store_status(output: Output) -> None:
    """Tell whether the store runs, and where; exit with 7 if it doesn't. With --json, its keys too."""
    from provisioner import session

    running = session.running_store()
    output.result(
        f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}", asdict(running)
    )


for module in (cli_extend, cli_fleet, cli_image, cli_links, cli_render, cli_service):
    module.register(app)
app.add_command(store_app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. The only place that turns an error into text."""
    words = sys.argv[1:] if arguments is None else arguments
    output = Output(sys.stdout, sys.stderr)
    try:
        return app.main(words, "provision", standalone_mode=False, obj=output) or 0
    except FreepostError as error:
        output.error(error)
        return error.exit_code
    except click.UsageError as error:
        if "--json" not in words:
            error.show()
        else:  # it may come later than what is wrong
            output.kind = Kind.DOCUMENT if output.kind is Kind.TEXT else output.kind
            output.error(BadInput(error.format_message(), hint=error.ctx.get_usage() if error.ctx else ""))
        return BadInput.exit_code
    except click.Abort:
        return INTERRUPTED
    except SystemExit as end:  # standard output was closed
        return end.code if isinstance(end.code, int) else 1
