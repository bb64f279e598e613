"""`provision store`: starts and stops the embedded store, and shows where it is."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.options import JsonDocument, streams
from provisioner.output import Event, Output

if TYPE_CHECKING:
    from provisioner.embedded.server import Running

store_app = typer.Typer(help="The embedded store: an S3 server of your own, on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.add_typer(store_app, name="store")


@store_app.command()
def start(
    context: typer.Context,
    buckets: Annotated[list[str] | None, typer.Argument(metavar="[BUCKET]...", help="Buckets to make")] = None,
    _json: JsonDocument = False,
) -> None:
    """Start the store, or find the running one."""
    from provisioner.jobs import stores

    _print_running(streams(context), stores.embedded_store().start(buckets or ()))


@store_app.command()
def stop(context: typer.Context) -> None:
    """Stop the store. Its data stays."""
    from provisioner.jobs import stores

    stopped = stores.embedded_store().stop()
    streams(context).event(Event("stopped", "the store is stopped" if stopped else "the store was not running"))


@store_app.command()
def status(context: typer.Context, _json: JsonDocument = False) -> None:
    """Tell whether the store runs, and where. Exits with 7 if it doesn't. With --json, its keys too."""
    from provisioner.jobs import stores

    _print_running(streams(context), stores.running_store())


def _print_running(output: Output, running: "Running") -> None:
    text = f"the store runs at {running.endpoint_url} (pid {running.pid}), bucket {running.bucket}"
    output.result(text, asdict(running))
