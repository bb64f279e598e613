"""The `provision` command: gathers the groups of commands, runs one, and turns an error into text and an exit code."""

import sys
from typing import Annotated

import typer

from agent import __version__
from provisioner.cli import image, jobs, links, maintenance, render, service, store
from provisioner.errors import BadInput, FreepostError
from provisioner.output import Kind, Output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(*, value: bool) -> None:
    if value:
        typer.echo(f"provision {__version__}")
        raise typer.Exit


@app.callback()
def provision(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit")
    ] = False,
) -> None:
    """Launch batch VMs that hold no credentials, and bring their results home."""


for module in (jobs, store, maintenance, image, links, render, service):
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
