"""What the command line adds to the API: stores named by flags, and events that a command shows its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors import BadInput
from provisioner.output import Event, Output, Report

if TYPE_CHECKING:
    from provisioner.jobs.index import StoreLocation


def named_location(url: str | None, endpoint_url: str | None) -> StoreLocation | None:
    """The store that ``--store`` and ``--endpoint-url`` name, or None. Raise BadInput for what is no s3:// URL."""
    from provisioner.jobs.stores import location_of

    if not url:
        if endpoint_url:
            message = "--endpoint-url: needs --store s3://BUCKET/PREFIX"
            raise BadInput(message)
        return None
    try:
        return location_of(url, endpoint_url)
    except BadInput as error:
        raise BadInput(f"--store: {error.message}") from None


def reporter(output: Output, *, without: str = "") -> Report:
    """Return what shows events; the summary of `collect` on standard output. Those called `without` are left out."""

    def report(event: Event) -> None:
        if event.name == "collect":
            output.summary(event)
        elif event.name != without:
            output.event(event)

    return report
