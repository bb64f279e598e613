"""The commands for what boots on the operator's own machine: `image build`, `image import` and `image list`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.options import JsonDocument, streams
from provisioner.output import Event, Output

if TYPE_CHECKING:
    from provisioner.providers.guest.images import Image

image_app = typer.Typer(help="Images that the machine and qemu providers boot.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.add_typer(image_app, name="image")


@image_app.command()
def build(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option("--suite", metavar="SUITE", help="Debian's release: bullseye, bookworm, trixie, sid")
    ] = "bookworm",
    fresh: Annotated[bool, typer.Option("--fresh", help="Build it again, for newer packages")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the output of mmdebstrap")] = False,
    _json: JsonDocument = False,
) -> None:
    """Build a Debian image, or find the one that was built. Uses mmdebstrap, needs root, and takes a minute or two."""
    from provisioner.providers.guest import images

    output = streams(context)
    output.event(Event("building", f"building {suite}, unless it is there", {"image": suite}))
    _print_image(output, images.build(suite, fresh=fresh, log=sys.stderr.buffer if verbose else None))


@image_app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE.qcow2", help="Cloud image to copy")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name for vm.image (default: the name of the file)")
    ] = None,
    _json: JsonDocument = False,
) -> None:
    """Copy a cloud image into the cache, for the qemu provider. Those of Ubuntu, Debian, Rocky and others work."""
    from provisioner.providers.guest import images

    _print_image(streams(context), images.import_qcow2(file, name or file.stem))


@image_app.command("list")
def list_(context: typer.Context, _json: JsonDocument = False) -> None:
    """List the images that there are."""
    from provisioner.providers.guest import images

    found = images.listing()
    text = "\n".join(f"{image.name}  {image.disk}" for image in found) or "there are no images"
    streams(context).result(text, {"images": [_describe(image) for image in found]})


def _print_image(output: Output, image: "Image") -> None:
    output.result(f"vm.image: {image.name} is ready ({image.disk.parent})", _describe(image))


def _describe(image: "Image") -> dict[str, object]:
    providers = ["machine", "qemu"] if image.root else ["qemu"]
    return {"image": image.name, "disk": str(image.disk), "providers": providers}
