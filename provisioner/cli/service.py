"""The commands around asking for signatures: `serve`, `token` and `revoke`. They parse, call and print."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.options import JobChoice, StoreChoice, job_command, store_command
from provisioner.clock import to_seconds, utc_now
from provisioner.errors import BadInput, MissingDependency, NotFound
from provisioner.output import Event, Kind, Output
from provisioner.units import option_seconds, option_size

if TYPE_CHECKING:
    from provisioner.jobs.index import StoreLocation
    from provisioner.serve.token import Allowance, Limits

_LONGEST = 366 * 86_400  # seconds that a token lives

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", envvar="FREEPOST_TOKEN_KEY", help="Key that tokens are made with"),
]
RevokedFile = Annotated[
    Path | None, typer.Option("--revoked", metavar="FILE", help="List of revoked tokens, one id a line")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(serve)
    app.command("token")(token_)
    app.command("revoke")(revoke_)


@store_command(json=Kind.EVENTS, first=True)
def serve(
    chosen: StoreChoice,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; anything but loopback requires TLS")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 is any free one")
    ] = 8450,
    unix: Annotated[Path | None, typer.Option("--unix", metavar="PATH", help="Listen on a Unix socket instead")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate chain for TLS (PEM)")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Key of the certificate (PEM)")
    ] = None,
    key_file: KeyFile = None,
    revoked: RevokedFile = None,
    longest: Annotated[str, typer.Option("--longest", metavar="TIME", help="Longest lifetime of a signature")] = "12h",
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="N", min=0.001, help="Signatures per second for one token, in the long run"),
    ] = 50,
    burst: Annotated[
        int, typer.Option("--burst", metavar="N", min=1, help="Signatures that one token may have at once")
    ] = 1000,
) -> None:
    """Run a service that signs requests for token holders. Its clients need no credentials.

    Every grant is logged, without its signature.
    """
    from provisioner.jobs.role_session import RefreshingCredentials
    from provisioner.jobs.stores import open_location
    from provisioner.plan.layout import store_root

    output = chosen.output
    try:
        from provisioner.serve import app, key_store, server
        from provisioner.serve.rate import Limiter
        from provisioner.serve.signing import SigningService
    except ModuleNotFoundError as error:
        raise MissingDependency(f"the service needs {error.name}", hint="pip install 'freepost[serve]'") from None
    import time

    address = server.Address(host, port, unix, tls_cert, tls_key)
    server.check(address)
    path = key_file or _state_file("token.key")
    key = key_store.read_key(path, make=key_file is None and not path.exists())
    location = chosen.location_or_embedded()
    opened = open_location(location).store
    signing = SigningService(
        opened.bucket,
        store_root(opened.prefix),
        RefreshingCredentials(lambda: open_location(location).store.credentials, utc_now),
        utc_now,
        timedelta(seconds=option_seconds("--longest", longest, least=1, most=_LONGEST)),
    )
    limiter = Limiter(rate, burst, time.monotonic)
    service = app.Service(
        signing, key, key_store.RevokedTokens(revoked or _state_file("revoked")), limiter, output.event
    )
    server.serve(app.make_app(service), address, output.event)


@store_command(json=Kind.DOCUMENT)
def token_(
    chosen: StoreChoice,
    where: Annotated[
        str | None, typer.Argument(metavar="[s3://BUCKET/PREFIX/ | JOB]", help="What a new token is for")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Which task of the JOB (default: its only one)")
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="Which attempt of the task (default: its latest)"),
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", metavar="METHODS", help="Some of GET,POST,PUT (default: POST)")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="SIZE", help="Largest object (default: 5GiB)")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="Lifetime of the token (default: 1d)")
    ] = None,
    prefixes: Annotated[
        list[str] | None,
        typer.Option("--prefix", metavar="KEY", help="Allow only keys below this one; can be repeated"),
    ] = None,
    narrow: Annotated[
        Path | None,
        typer.Option(
            "--narrow", metavar="FILE", help="Print a narrower token than the one in FILE; - is standard input"
        ),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option("--show", metavar="FILE", help="Show what the token in FILE allows; - is standard input"),
    ] = None,
    revoke_id: Annotated[
        str | None, typer.Option("--revoke", metavar="ID", help="Revoke the token with this ID")
    ] = None,
    key_file: KeyFile = None,
    revoked: RevokedFile = None,
) -> None:
    """Make, narrow, show or revoke a token of the signing service."""
    output = chosen.output
    if sum(item is not None for item in (where, narrow, show, revoke_id)) != 1:
        raise BadInput("name one thing to do", hint="s3://BUCKET/PREFIX/ or a JOB, or --narrow, --show or --revoke")
    if revoke_id is not None:
        _revoke_token(output, revoke_id, revoked or _state_file("revoked"))
        return
    from provisioner.serve import key_store, token

    if show is not None:
        allowed = token.read_unverified(_read_token(show))
        output.result(_describe(allowed), allowed.describe())
        return
    limits = _limits(methods, max_bytes, expires, prefixes or ())
    if narrow is not None:
        made = token.narrow(_read_token(narrow), limits)
    else:
        bucket, covered = _covered(str(where), task, attempt, chosen.location())
        limits = token.complete(limits, covered, utc_now())  # before a key is made: what is refused leaves none
        path = key_file or _state_file("token.key")
        key = key_store.read_key(path, make=not path.exists())
        made = token.mint(key, key_store.new_id(), bucket, limits)
    output.result(made, {"token": made, **token.read_unverified(made).describe()})


@job_command(json=Kind.EVENTS)
def revoke_(
    chosen: JobChoice,
    undo: Annotated[bool, typer.Option("--undo", help="Let grants that haven't expired be used again")] = False,
) -> None:
    """Make the store refuse what a job's VMs were granted."""
    chosen.open().revoke(undo=undo)


def _revoke_token(output: Output, token_id: str, path: Path) -> None:
    from provisioner.serve.key_store import RevokedTokens

    new = RevokedTokens(path).add(token_id)
    text = f"token {token_id} {'is' if new else 'was'} revoked{'' if new else ' already'}"
    note = "; what was signed for it lives until its own expiry (`provision revoke JOB` ends that)"
    output.outcome(Event("revoked", text + note, {"token": token_id, "new": new}))


def _limits(methods: str | None, max_bytes: str | None, expires: str | None, prefixes: Sequence[str]) -> "Limits":
    from provisioner.serve.token import Limits

    size = None if max_bytes is None else option_size("--max-bytes", max_bytes)
    ends = None
    if expires is not None:
        seconds = option_seconds("--expires", expires, least=1, most=_LONGEST)
        ends = to_seconds(utc_now()) + seconds
    return Limits(list(prefixes) or None, methods.upper().split(",") if methods else None, size, ends)


def _covered(
    where: str, task: str | None, attempt: int | None, location: "StoreLocation | None"
) -> tuple[str, list[str]]:
    """The bucket and prefixes that a new token is for."""
    from provisioner.jobs.record import keys_of
    from provisioner.jobs.stores import find_job
    from provisioner.s3url import is_s3_url, parse_url

    if is_s3_url(where) and task is None:
        target = parse_url(where)
        if not target.key.strip("/"):
            raise BadInput("a token is for a prefix, not for a whole bucket", hint="s3://BUCKET/PREFIX/")
        return target.bucket, [target.key.strip("/") + "/"]
    opened, record = find_job(where, location)
    keys = keys_of(opened.store, record)
    if task is None and len(record.spec.tasks) > 1:
        raise BadInput(
            f"a token is for one task, and {record.job} has {len(record.spec.tasks)}",
            hint="--task 0; or for all their results s3://BUCKET/PREFIX/JOB/out/",
        )
    task = record.spec.tasks[0] if task is None else task
    if task not in record.spec.tasks:
        raise NotFound(f"{record.job} has no task {task!r}")
    number = attempt or record.attempts.get(task, 1)
    return opened.store.bucket.name, [keys.outputs(task, number), keys.status(task, number)]


def _describe(found: "Allowance") -> str:
    from provisioner.s3url import show_url

    about = found.describe()
    where = " or ".join(show_url(found.bucket, prefix) for prefix in found.prefixes) or "nothing"
    may = f"{', '.join(about['methods'])} below {where}"
    return f"token {found.id}: {may}, up to {found.max_bytes} bytes an object, until {about['expires']}"


def _state_file(name: str) -> Path:
    from provisioner.paths import state_dir

    return state_dir() / "serve" / name


def _read_token(path: Path) -> str:
    """A token from a file or standard input; never from the command line, which others can read."""
    try:
        return (sys.stdin.read(10_000) if str(path) == "-" else path.read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read: {type(error).__name__}") from None
