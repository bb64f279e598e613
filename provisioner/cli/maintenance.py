"""The commands that look after what is paid for: `doctor` before a launch, `gc` after many."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.options import LocalJob, Overrides, ProviderName, StoreChoice, store_command
from provisioner.errors import BadInput, FreepostError, Incomplete
from provisioner.output import Event, Kind

if TYPE_CHECKING:
    from provisioner.job.spec import JobSpec
    from provisioner.jobs.record import JobRecord
    from provisioner.jobs.stores import OpenStore
    from provisioner.providers.base import Check, Provider

# The options that distinguish two accounts, regions or clouds of one provider.
CONNECTION = ("region", "profile", "endpoint_url", "cloud")


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.command()(doctor)
    app.command()(gc)


@store_command(json=Kind.DOCUMENT)
def doctor(
    chosen: StoreChoice,
    job: Annotated[Path | None, typer.Argument(metavar="[JOB.yaml]", help="The job to check for")] = None,
    local: LocalJob = False,
    provider: ProviderName = None,
    overrides: Overrides = None,
) -> None:
    """Check whether a job could be launched, and pay for nothing. Tries credentials, bucket, image, network, quota."""
    from provisioner import clock
    from provisioner.jobs import doctor as checks
    from provisioner.jobs.factory import make_provider
    from provisioner.jobs.stores import choose, open_location

    output = chosen.output
    spec = _spec(job, provider, overrides or (), chosen)
    found: list[Check] = []
    try:
        location, name = choose(spec, local=local, provider=provider)
        opened = open_location(location)
        found += checks.of_store(opened.store, spec, clock.utc_now())
        found += checks.of_provider(make_provider(name, opened, spec.vm.options), spec)
    except FreepostError as error:
        found.append(checks.stopped(error))
        output.result(checks.table(found), [asdict(each) for each in found])
        raise error from None
    output.result(checks.table(found), [asdict(each) for each in found])
    bad = [each.name for each in found if each.good is False]
    if bad:
        raise Incomplete(
            f"{len(bad)} of {len(found)} checks say no: {', '.join(bad)}", hint="each says what to do about it, above"
        )


def _spec(job: Path | None, provider: str | None, overrides: Sequence[str], chosen: StoreChoice) -> "JobSpec":
    """The job to check for; without one, a job that does nothing."""
    from provisioner.jobs.factory import read_spec

    if job is not None:
        return read_spec(job, overrides, provider)
    if chosen.store:
        chosen.location()  # so that a fault names the option
    where = {"url": chosen.store, **({"endpoint_url": chosen.endpoint_url} if chosen.endpoint_url else {})}
    store = {"store": where} if chosen.store else {}
    document = {"name": "doctor", "run": {"command": "true"}, "vm": {}, **store}
    return read_spec(document, overrides, provider, where="the command line")


@store_command(json=Kind.DOCUMENT)
def gc(
    chosen: StoreChoice,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is shown")] = False,
    providers: Annotated[
        list[str] | None,
        typer.Option("--provider", metavar="P[,KEY=VALUE]...", help="A cloud to look in besides those of the jobs"),
    ] = None,
) -> None:
    """Show what jobs that are over have left behind. Lists VMs, templates and marks; --yes removes them."""
    from provisioner import clock
    from provisioner.jobs import gc as garbage
    from provisioner.jobs.stores import open_location

    output = chosen.output
    opened = open_location(chosen.location_or_embedded())
    records, faults = garbage.read_records(opened.store)
    for fault in faults:
        output.event(Event("unreadable", f"skipped: {fault}", {"text": fault}))
    failed: dict[str, FreepostError] = {}
    finder = garbage.Finder(opened.store, _clouds(opened, records, providers or (), failed), clock.utc_now(), failed)
    found = finder.find(records, every=not faults)
    rows = [each.data() for each in found]
    if yes:
        finder.remove(found)
    output.result(garbage.table(found), {"removed": yes, "found": rows, "unreadable": faults})
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
    from provisioner.jobs.factory import make_provider

    wanted: dict[str, tuple[str, dict[str, str]]] = {}
    for record in records.values():
        keys = {key: str(value) for key, value in record.spec.vm.options.items() if key in CONNECTION}
        wanted[_label(record.provider, keys)] = record.provider, keys
    for each in more:
        name, *pairs = each.split(",")
        if not all("=" in pair for pair in pairs):
            raise BadInput(f"--provider: {each!r} is not P or P,KEY=VALUE", hint="such as ec2,region=eu-west-1")
        keys = dict(pair.split("=", 1) for pair in pairs)
        wanted[_label(name, keys)] = name, keys
    made: dict[str, Provider] = {}
    for label, (name, keys) in wanted.items():
        try:
            made[label] = make_provider(name, opened, keys)
        except FreepostError as error:
            failed[label] = error
    return made


def _label(name: str, keys: dict[str, str]) -> str:
    return " ".join([name, *(keys[key] for key in CONNECTION if key in keys)])
