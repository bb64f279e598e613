"""`provision extend`: renews the grants of a running job."""

from __future__ import annotations

from datetime import timedelta

import click

from provisioner import options
from provisioner.errors import BadInput
from provisioner.output import Output


def register(app: click.Group) -> None:
    """Add the command to `provision`."""
    app.add_command(extend)


@click.command()
@options.launched_job
@click.option("--for", "life", metavar="TIME", help="How long they live, e.g. 7d; what the job says.")
@options.task
@options.json_events
@click.pass_obj
def extend(  # noqa: PLR0913 - flags
    output: Output, *, job: str, life: str | None, task: str | None, store: str | None, endpoint_url: str | None
) -> None:
    """Renew what a job's running VMs may do: each finds the new grant in its mailbox. `watch` does so by itself."""
    from provisioner import renew, session

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
