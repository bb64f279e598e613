"""Arguments and flags that several commands share, each with its one help text; and how a command gets its streams.

A command that takes ``--json`` says by its decorator what that makes of its standard output: `json_document` or
`json_events` (`provisioner.output` tells them apart).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from provisioner.output import Kind, Output

Command = TypeVar("Command", bound=Callable[..., Any])

DOCUMENT_HELP = "Print one JSON document, and nothing else, on standard output."
EVENTS_HELP = "Print each event as a line of JSON, and nothing else, on standard output."

FILE = click.Path(path_type=Path)

job_file = click.argument("job", metavar="JOB.yaml", type=FILE, help="What to run.")
job_name = click.argument("job", metavar="JOB", help="A job's id, or s3://BUCKET/PREFIX/ID.")
store = click.option(
    "--store", metavar="s3://BUCKET/PREFIX", envvar="FREEPOST_STORE", show_envvar=True, help="The store."
)
endpoint_url = click.option(
    "--endpoint-url",
    envvar="FREEPOST_ENDPOINT_URL",
    show_envvar=True,
    metavar="URL",
    help="The store's endpoint, if it isn't AWS.",
)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the job, e.g. run.timeout=2h.",
)
provider = click.option("--provider", metavar="NAME", help="Where VMs run, instead of vm.provider.")
task = click.option("--task", metavar="TASK", help="Only this task.")


def launched_job(command: Command) -> Command:
    """Take JOB, --store and --endpoint-url: a job that was launched, and the store that has it."""
    return job_name(store(endpoint_url(command)))


def json_document(command: Command) -> Command:
    """Take --json, which makes standard output one JSON document: the command's result, or else its error."""
    return _json(Kind.DOCUMENT, DOCUMENT_HELP)(command)


def json_events(command: Command) -> Command:
    """Take --json, which makes standard output lines of JSON, each an object that names its event."""
    return _json(Kind.EVENTS, EVENTS_HELP)(command)


def _json(kind: Kind, text: str) -> Callable[[Command], Command]:
    def tell(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's own signature
        if value:
            context.ensure_object(Output).kind = kind

    return click.option("--json", is_flag=True, expose_value=False, callback=tell, help=text)
