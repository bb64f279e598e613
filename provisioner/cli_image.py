"""The commands for what boots on the operator's own machine: `image build`, `image import` and `image list`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner import options
from provisioner.output import Event, Output

if TYPE_CHECKING:
    from provisioner.images import Image


def register(app: click.Group) -> None:
    """Add the commands to `provision`."""
    app.add_command(image_app)


@click.group("image")
def image_app() -> None:
    """Images that the machine and qemu providers boot."""


@image_app.command()
@click.option("--suite", metavar="SUITE", default="bookworm", help="Debian's: bullseye, bookworm, trixie, sid.")
@click.option("--fresh", is_flag=True, help="Build anew, for newer packages.")
@click.option("--verbose", is_flag=True, help="Show what mmdebstrap says.")
@options.json_document
@click.pass_obj
def build(output: Output, suite: str, fresh: bool, verbose: bool) -> None:
    """Build a Debian image with mmdebstrap, or find the one that was built. Needs root; takes a minute or two."""
    from provisioner import images

    output.event(Event("building", f"building {suite}, unless it is there", {"image": suite}))
    _tell(output, images.build(suite, fresh=fresh, log=sys.stderr.buffer if verbose else None))


@image_app.command("import")
@click.argument("file", metavar="FILE.qcow2", type=options.FILE, help="A cloud image.")
@click.option("--name", metavar="NAME", help="What vm.image calls it; the file's name if not given.")
@options.json_document
@click.pass_obj
def import_(output: Output, file: Path, name: str | None) -> None:
    """Copy a cloud image (Ubuntu, Debian, Rocky, ...) into the cache, for the qemu provider."""
    from provisioner import images

    _tell(output, images.import_qcow2(file, name or file.stem))


@image_app.command("list")
@options.json_document
@click.pass_obj
def list_(output: Output) -> None:
    """List the images that there are."""
    from provisioner import images

    found = images.listing()
    text = "\n".join(f"{image.name}  {image.disk}" for image in found) or "there are no images"
    output.result(text, {"images": [_described(image) for image in found]})


def _tell(output: Output, image: Image) -> None:
    output.result(f"vm.image: {image.name} is ready ({image.disk.parent})", _described(image))


def _described(image: Image) -> dict[str, object]:
    providers = ["machine", "qemu"] if image.root else ["qemu"]
    return {"image": image.name, "disk": str(image.disk), "providers": providers}
