"""Arguments and flags that several commands share, each with its one help text; and how a command shows what happens.

`store_command` and `job_command` declare what every command takes that works on a store, or on a job: the function that
they decorate gets a `StoreChoice` or a `JobChoice`, and its own arguments.

A command that takes ``--json`` says by its parameter's type what that makes of its standard output: `JsonDocument` or
`JsonEvents` (`provisioner.output` says how they differ). It has no use for the parameter's value: `streams` knows.

Modules with commands don't import `annotations` from the future: typer would evaluate the text of each twice, which
takes a start 30 ms.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from provisioner.errors import BadInput
from provisioner.jobs import events
from provisioner.output import Event, Kind, Output, Report

if TYPE_CHECKING:
    from provisioner.jobs.index import StoreLocation
    from provisioner.jobs.job import Job

DOCUMENT_HELP = "Print one JSON document, and nothing else, on standard output"
EVENTS_HELP = "Print each event as a line of JSON, and nothing else, on standard output"


def streams(context: typer.Context) -> Output:
    """The command's two streams."""
    return context.ensure_object(Output)


def reporter(output: Output, *, without: str = "") -> Report:
    """Return what shows events; the summary of `collect` on standard output. Those called `without` are left out."""

    def report(event: Event) -> None:
        if event.name == events.COLLECT:
            output.summary(event)
        elif event.name != without:
            output.event(event)

    return report


def _sets_kind(kind: Kind) -> Callable[..., bool]:
    def set_kind(context: typer.Context, *, value: bool) -> bool:
        if value:
            streams(context).kind = kind
        return value

    return set_kind


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job to run")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, or s3://BUCKET/PREFIX/ID")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="s3://BUCKET/PREFIX", envvar="FREEPOST_STORE", help="The store")
]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        envvar="FREEPOST_ENDPOINT_URL",
        help="The store's endpoint, if it isn't AWS",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job, e.g. run.timeout=2h"),
]
# What a job is launched, rendered or checked with; where only a bucket is named (`cli.links`), there is no provider.
LocalJob = Annotated[
    bool,
    typer.Option("--local", help="Use the embedded store and the local provider: the job runs here, not isolated"),
]
LocalBucket = Annotated[bool, typer.Option("--local", help="Use a bucket of the embedded store")]
ProviderName = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="Where VMs run, instead of vm.provider")
]
Task = Annotated[str | None, typer.Option("--task", metavar="TASK", help="Only this task")]
JsonDocument = Annotated[bool, typer.Option("--json", callback=_sets_kind(Kind.DOCUMENT), help=DOCUMENT_HELP)]
JsonEvents = Annotated[bool, typer.Option("--json", callback=_sets_kind(Kind.EVENTS), help=EVENTS_HELP)]

Command: TypeAlias = Callable[..., None]
Parameters: TypeAlias = tuple[inspect.Parameter, ...]


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_STORE: Parameters = (_parameter("store", StoreUrl, None), _parameter("endpoint_url", Endpoint, None))
_JSON: dict[Kind | None, Parameters] = {
    None: (),
    Kind.DOCUMENT: (_parameter("_json", JsonDocument, default=False),),
    Kind.EVENTS: (_parameter("_json", JsonEvents, default=False),),
}


@dataclass(frozen=True)
class StoreChoice:
    """The store that a command works on, and the command's streams."""

    output: Output
    store: str | None
    endpoint_url: str | None

    def location(self) -> "StoreLocation | None":
        """The store that was named, or None. Raise BadInput for what is no s3:// URL."""
        from provisioner.jobs.stores import location_of

        if not self.store:
            if self.endpoint_url:
                raise BadInput("needs --store s3://BUCKET/PREFIX", argument="endpoint_url")
            return None
        return location_of(self.store, self.endpoint_url)

    def location_or_embedded(self) -> "StoreLocation":
        """The store that was named, or the embedded one."""
        from provisioner.jobs.stores import embedded_location

        return self.location() or embedded_location()


@dataclass(frozen=True)
class JobChoice(StoreChoice):
    """The job that a command works on, and one task of it if ``--task`` names one."""

    job: str
    task: str | None = None

    def open(self, report: Report | None = None) -> "Job":
        """Open the job. What happens is shown on the command's streams, or given to `report`."""
        from provisioner import api

        return api.job(self.job, store=self.location(), report=report or reporter(self.output))


def store_command(*, json: Kind | None = None, first: bool = False) -> Callable[[Command], Command]:
    """Give a command ``--store`` and ``--endpoint-url``, as a StoreChoice, and ``--json`` if it says of which kind.

    They come after its own options in its help, unless they are to come `first`.
    """
    shared = _Shared(StoreChoice, _STORE, ()) if first else _Shared(StoreChoice, (), _STORE)
    return lambda function: _decorate(function, shared, json)


def job_command(*, json: Kind | None = None, task: bool = False) -> Callable[[Command], Command]:
    """Give a command what every command on a job takes, as a JobChoice: JOB, ``--store`` and ``--endpoint-url``.

    With `task` it takes ``--task``, too, and ``--json`` if it says of which kind.
    """
    shared = _Shared(
        JobChoice, (_parameter("job", JobName), *_STORE), (_parameter("task", Task, None),) if task else ()
    )
    return lambda function: _decorate(function, shared, json)


@dataclass(frozen=True)
class _Shared:
    """Parameters that go into a choice of this kind, and stand before and after a command's own."""

    kind: type[StoreChoice]
    before: Parameters
    after: Parameters


def _decorate(function: Command, shared: _Shared, json: Kind | None) -> Command:
    """Return the command that typer sees: its parameters are the shared ones around those of the function itself."""
    _, *declared = inspect.signature(function).parameters.values()
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in declared]
    names = [each.name for each in (*shared.before, *shared.after)]

    @functools.wraps(function)
    def command(context: typer.Context, **read: Any) -> None:  # noqa: ANN401 - what typer read
        choice = shared.kind(output=streams(context), **{name: read[name] for name in names})
        function(choice, **{each.name: read[each.name] for each in own})

    made = [_parameter("context", typer.Context), *shared.before, *own, *shared.after, *_JSON[json]]
    command.__dict__["__signature__"] = inspect.Signature(made)
    command.__annotations__ = {each.name: each.annotation for each in made}
    return command
