"""Flags and arguments that several commands share, each with its one help text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from provisioner.output import Output

JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to run.", show_default=False)]
JobName = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or s3://BUCKET/PREFIX/ID.", show_default=False)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON (lines for events), and nothing else, on standard output.")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="s3://BUCKET/PREFIX", envvar="FREEPOST_STORE", help="The store.")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", envvar="FREEPOST_ENDPOINT_URL", help="The store's endpoint, if it isn't AWS."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job, e.g. run.timeout=2h."),
]
ProviderName = Annotated[str | None, typer.Option("--provider", help="Where VMs run, instead of vm.provider.")]
Task = Annotated[str | None, typer.Option("--task", help="Only this task.")]


def streams(*, as_json: bool = False) -> Output:
    """The command's two streams."""
    return Output(sys.stdout, sys.stderr, as_json=as_json)
