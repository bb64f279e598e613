"""`provision extend`: renews the grants of a running job."""

from datetime import timedelta
from typing import Annotated

import typer

from provisioner.cli.options import Endpoint, JobName, JsonEvents, StoreUrl, Task, streams
from provisioner.errors import BadInput


def register(app: typer.Typer) -> None:
    """Add the command to `provision`."""
    app.command()(extend)


def extend(
    context: typer.Context,
    job: JobName,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    life: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long they live, e.g. 7d; what the job says.")
    ] = None,
    task: Task = None,
    _json: JsonEvents = False,
) -> None:
    """Renew what a job's running VMs may do: each finds the new grant in its mailbox. `watch` does so by itself."""
    from provisioner.jobs import renew
    from provisioner.jobs import toolbox as session

    output = streams(context)
    seconds = None if life is None else _seconds(life)
    opened, record = session.find_job(job, session.named_place(store, endpoint_url))
    using = session.make_provider(record.provider, opened, record.spec.vm.options)
    found = renew.running(opened.store, record, task)
    for event in session.renewer(opened, using, output.event).extend(record, found, seconds):
        output.event(event)


def _seconds(value: str) -> timedelta:
    from provisioner import units

    try:
        seconds = units.seconds(value)
    except ValueError:
        seconds = 0
    if seconds < 1:
        raise BadInput(f"--for {value!r} is no duration", hint="such as 90s, 12h or 7d")
    return timedelta(seconds=seconds)
