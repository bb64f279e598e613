"""Arguments and flags that several commands share, each with its one help text; and how a command gets its streams.

A command that takes ``--json`` says by its parameter's type what that makes of its standard output: `JsonDocument` or
`JsonEvents` (`provisioner.output` tells them apart). The parameter's value is of no use to it: `streams` knows.

Modules with commands don't import `annotations` from the future: typer would evaluate the text of each twice, which
takes a start 30 ms.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from provisioner.output import Kind, Output

DOCUMENT_HELP = "Print one JSON document, and nothing else, on standard output."
EVENTS_HELP = "Print each event as a line of JSON, and nothing else, on standard output."


def streams(context: typer.Context) -> Output:
    """The command's two streams."""
    return context.ensure_object(Output)


def _tell(kind: Kind) -> Callable[..., bool]:
    def tell(context: typer.Context, *, value: bool) -> bool:
        if value:
            streams(context).kind = kind
        return value

    return tell


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to run.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or s3://BUCKET/PREFIX/ID.")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="s3://BUCKET/PREFIX", envvar="FREEPOST_STORE", help="The store.")
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        envvar="FREEPOST_ENDPOINT_URL",
        help="The store's endpoint, if it isn't AWS.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job, e.g. run.timeout=2h."),
]
ProviderName = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="Where VMs run, instead of vm.provider.")
]
Task = Annotated[str | None, typer.Option("--task", metavar="TASK", help="Only this task.")]
JsonDocument = Annotated[bool, typer.Option("--json", callback=_tell(Kind.DOCUMENT), help=DOCUMENT_HELP)]
JsonEvents = Annotated[bool, typer.Option("--json", callback=_tell(Kind.EVENTS), help=EVENTS_HELP)]
