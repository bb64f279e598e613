"""The commands that look after what is paid for: `doctor` before a launch, `gc` after many."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provisioner.cli.options import Endpoint, JsonDocument, Overrides, ProviderName, StoreUrl, streams
from provisioner.errors import BadInput, FreepostError, Incomplete
from provisioner.output import Event

if TYPE_CHECKING:
    from provisioner.job.spec import JobSpec
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.toolbox import OpenStore
    from provisioner.providers.base import Check, Provider

# What tells two accounts, regions or clouds of one provider apart; the rest of a job's options doesn't.
CONNECTION = ("region", "profile", "endpoint_url", "cloud")


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.command()(doctor)
    app.command()(gc)


def doctor(
    context: typer.Context,
    job: Annotated[Path | None, typer.Argument(metavar="[JOB.yaml]", help="The job to check for.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Check the embedded store and no VM.")] = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    _json: JsonDocument = False,
) -> None:
    """Say whether a job could be launched: credentials, bucket, policy, image, network, quota. Pays for nothing."""
    from provisioner.jobs import doctor as examining
    from provisioner.jobs import toolbox as session

    output = streams(context)
    spec = _spec(job, provider, overrides or (), store, endpoint_url)
    found: list[Check] = []
    try:
        place, name = session.choose(spec, local=local, provider=provider)
        opened = session.open_place(place)
        found += examining.of_store(opened.store, spec, session.clock())
        found += examining.of_provider(session.make_provider(name, opened, spec.vm.options), spec)
    except FreepostError as error:
        found.append(examining.stopped(error))
        output.result(examining.table(found), [asdict(each) for each in found])
        raise error from None
    output.result(examining.table(found), [asdict(each) for each in found])
    bad = [each.name for each in found if each.good is False]
    if bad:
        raise Incomplete(
            f"{len(bad)} of {len(found)} checks say no: {', '.join(bad)}", hint="each says what to do about it, above"
        )


def _spec(
    job: Path | None, provider: str | None, overrides: Sequence[str], store: str | None, endpoint_url: str | None
) -> "JobSpec":
    """The job to check for; without one, a job that does nothing."""
    from provisioner.job import load
    from provisioner.job.overrides import apply
    from provisioner.job.problems import Faults
    from provisioner.jobs import toolbox as session
    from provisioner.providers import registry

    if job is not None:
        return session.load_spec(job, overrides, provider)
    where: dict[str, Any] = {"url": store, **({"endpoint_url": endpoint_url} if endpoint_url else {})}
    document: Any = {
        "name": "doctor",
        "run": {"command": "true"},
        "vm": {"provider": provider} if provider else {},
        **({"store": where} if store else {}),
    }
    faults = Faults("the command line", Path())
    document = apply(document, overrides, faults)
    if faults.found:
        faults.stop()
    return load.parse(document, base=Path(), where="the command line", providers=registry.OptionSchemas())


def gc(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown.")] = False,
    providers: Annotated[
        list[str] | None,
        typer.Option("--provider", metavar="P[,KEY=VALUE]...", help="A cloud to look in besides those of the jobs."),
    ] = None,
    store: StoreUrl = None,
    endpoint_url: Endpoint = None,
    _json: JsonDocument = False,
) -> None:
    """Show VMs, templates and marks of jobs that are over or expired; with --yes, remove them."""
    from provisioner.jobs import gc as finding
    from provisioner.jobs import toolbox as session

    output = streams(context)
    place = session.named_place(store, endpoint_url) or session.embedded_place(None, "")
    opened = session.open_place(place)
    records, faults = finding.read_records(opened.store)
    for fault in faults:
        output.event(Event("unreadable", f"skipped: {fault}", {"text": fault}))
    failed: dict[str, FreepostError] = {}
    finder = finding.Finder(opened.store, _clouds(opened, records, providers or (), failed), session.clock(), failed)
    found = finder.find(records, every=not faults)
    rows = [{key: value for key, value in asdict(each).items() if key != "leftover"} for each in found]
    if yes:
        finder.remove(found)
    output.result(finding.table(found), {"removed": yes, "found": rows, "unreadable": faults})
    if found:
        text = f"{len(found)} removed" if yes else f"{len(found)} can go; --yes removes them"
        output.event(Event("gc", text, {"count": len(found), "removed": yes}))
    if failed:
        faults = [f"{label}: {error.message}" for label, error in failed.items()]
        raise Incomplete(
            f"{len(failed)} clouds could not be looked through or cleared: {'; '.join(faults)}",
            hint=next((error.hint for error in failed.values() if error.hint), "run the same command again"),
        )


def _clouds(
    opened: "OpenStore", records: "dict[str, JobRecord]", more: Sequence[str], failed: dict[str, FreepostError]
) -> "dict[str, Provider]":
    """Every cloud that a job of the store was launched on, and those that the operator names.

    What keeps one from being used (a provider that isn't installed here, say) is put into `failed`.
    """
    from provisioner.jobs import toolbox as session

    wanted: dict[str, tuple[str, dict[str, str]]] = {}
    for record in records.values():
        keys = {key: str(value) for key, value in record.spec.vm.options.items() if key in CONNECTION}
        wanted[_label(record.provider, keys)] = record.provider, keys
    for each in more:
        name, *pairs = each.split(",")
        if not all("=" in pair for pair in pairs):
            raise BadInput(f"--provider {each!r} is not P or P,KEY=VALUE", hint="such as ec2,region=eu-west-1")
        keys = dict(pair.split("=", 1) for pair in pairs)
        wanted[_label(name, keys)] = name, keys
    made: dict[str, Provider] = {}
    for label, (name, keys) in wanted.items():
        try:
            made[label] = session.make_provider(name, opened, keys)
        except FreepostError as error:
            failed[label] = error
    return made


def _label(name: str, keys: dict[str, str]) -> str:
    return " ".join([name, *(keys[key] for key in CONNECTION if key in keys)])
