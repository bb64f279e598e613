"""The commands that hand out presigned material: `url get`, `url put`, `sign` and `form`.

What they make goes to standard output or to the file that is named, and nowhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from provisioner import atomic
from provisioner.cli.options import Endpoint, JsonDocument, LocalBucket, streams
from provisioner.errors import BadInput
from provisioner.output import Event, Output
from provisioner.units import option_seconds, option_size

if TYPE_CHECKING:
    from provisioner.links.link import Link

url_app = typer.Typer(help="Presigned URLs: download links and upload slots.", no_args_is_help=True)

Prefix = Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="Where uploads go")]
Expires = Annotated[
    str, typer.Option("--expires", metavar="TIME", help="How long it works, such as 90s or 1h30m; at most 7d")
]
MaxBytes = Annotated[
    str, typer.Option("--max-bytes", metavar="SIZE", help="Largest file to accept, such as 100MB or 5GiB")
]
CurlFile = Annotated[str | None, typer.Option("--file", metavar="FILE", help="Local file to name in the curl command")]
Curl = Annotated[bool, typer.Option("--curl", help="Print curl commands instead of URLs")]
Title = Annotated[str, typer.Option("--title", metavar="TEXT", help="Title of the page")]


def register(app: typer.Typer) -> None:
    """Add the commands to `provision`."""
    app.add_typer(url_app, name="url")
    app.command()(sign)
    app.command()(form)


@url_app.command()
def get(
    context: typer.Context,
    keys: Annotated[
        list[str],
        typer.Argument(
            metavar="s3://BUCKET/KEY...", help="Objects to link to; one that ends in / stands for all objects below it"
        ),
    ],
    endpoint_url: Endpoint = None,
    local: LocalBucket = False,
    expires: Expires = "1h",
    filename: Annotated[
        str | None, typer.Option("--filename", metavar="NAME", help="Name under which a browser saves the object")
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", metavar="TYPE", help="Content type to serve the object with")
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--header", metavar="'NAME: VALUE'", help="Response header to override, such as 'Cache-Control: no-store'"
        ),
    ] = None,
    qr: Annotated[
        bool, typer.Option("--qr", help="Print a QR code below each URL, or draw it into the page of --html")
    ] = False,
    _json: JsonDocument = False,
    curl: Curl = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the links to an HTML page")] = None,
    title: Title = "Files to download",
    check: Annotated[bool, typer.Option("--check/--no-check", help="Check that each object exists")] = True,
) -> None:
    """Print download links, one a line. Whoever has one may download that object until it expires."""
    from provisioner.jobs.stores import link_opener
    from provisioner.links import downloads

    output = streams(context)
    if output.as_json and str(html) == "-":
        raise BadInput("--html: standard output is that of --json", hint="name a file")
    options = downloads.DownloadOptions(headers or (), content_type, filename, check)
    open_bucket = link_opener(endpoint_url, option_seconds("--expires", expires), local=local)
    found = downloads.sign_downloads(keys, open_bucket, options)
    if html is not None:
        from provisioner.links import pages

        _write(html, pages.index_page(found, title=title, qr=qr), output)
        if not output.as_json:
            return
    _print(output, found, {"links": [link.describe() for link in found]}, curl=curl, qr=qr)


@url_app.command()
def put(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="s3://BUCKET/KEY", help="Object to be written")],
    endpoint_url: Endpoint = None,
    local: LocalBucket = False,
    expires: Expires = "1h",
    size: Annotated[str | None, typer.Option("--size", metavar="BYTES", help="Accept exactly this many bytes")] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", "--type", metavar="TYPE", help="Accept exactly this content type")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="Accept only content with this SHA-256")
    ] = None,
    no_overwrite: Annotated[
        bool, typer.Option("--no-overwrite", help="Accept the upload only while there is no such object")
    ] = False,
    file: CurlFile = None,
    _json: JsonDocument = False,
    curl: Curl = False,
) -> None:
    """Print an upload slot. Whoever has it may write that one object, by PUT, until it expires."""
    from provisioner import api

    output = streams(context)
    link = api.upload_url(
        key,
        expires=option_seconds("--expires", expires),
        size=option_size("--size", size) if size else None,
        content_type=content_type or "",
        sha256=sha256 or "",
        overwrite=not no_overwrite,
        endpoint_url=endpoint_url,
        local=local,
    )
    link = replace(link, file=file) if file else link
    if link.headers and not (output.as_json or curl):
        needed = ", ".join(f"{header}: {value}" for header, value in link.headers.items())
        output.event(Event("headers", f"send it with exactly these headers: {needed}"))
    _print(output, [link], link.describe(), curl=curl)


def sign(
    context: typer.Context,
    prefix: Prefix,
    endpoint_url: Endpoint = None,
    local: LocalBucket = False,
    expires: Expires = "1h",
    max_bytes: MaxBytes = "5GiB",
    form_of: Annotated[
        Literal["grant", "json", "curl"],
        typer.Option(
            "--format",
            help="What to print: a grant for `agent push`, the URL and fields that boto3 returns, or a curl command",
        ),
    ] = "grant",
    file: CurlFile = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--put",
            metavar="NAME",
            help="Grant a presigned PUT of this file instead, for stores that accept no forms; can be repeated",
        ),
    ] = None,
) -> None:
    """Print a POST policy for a prefix. Whoever has it may write any object below the prefix until it expires."""
    output = streams(context)
    seconds, limit = option_seconds("--expires", expires), option_size("--max-bytes", max_bytes)
    if names and form_of != "grant":
        raise BadInput(
            "--put: presigned PUTs make a grant, which is for `agent push`", hint="for one URL, use `provision url put`"
        )
    if form_of == "grant":
        from provisioner import api

        text = api.sign(
            prefix, expires=seconds, max_bytes=limit, names=names or (), endpoint_url=endpoint_url, local=local
        )
    else:
        from provisioner.jobs.stores import link_opener
        from provisioner.links.forms import curl_form, post_fields
        from provisioner.s3url import parse_url

        where = parse_url(prefix)
        _, signer = link_opener(endpoint_url, seconds, local=local)(where.bucket)
        target = signer.post(where.prefix, max_bytes=limit)
        curl = form_of == "curl"
        text = (
            curl_form(target, file or "FILE")
            if curl
            else json.dumps({"url": target.url, "fields": post_fields(target)})
        )
    output.raw(f"{text}\n".encode())


def form(
    context: typer.Context,
    prefix: Prefix,
    target: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write the page to; - is standard output")
    ],
    endpoint_url: Endpoint = None,
    local: LocalBucket = False,
    expires: Expires = "1d",
    max_bytes: MaxBytes = "100MB",
    title: Title = "Upload files",
    success_url: Annotated[
        str | None, typer.Option("--success-url", metavar="URL", help="Page to open after an upload")
    ] = None,
    cors: Annotated[
        bool, typer.Option("--cors", help="Set the CORS rules of the bucket so that the page works")
    ] = False,
    origins: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            metavar="ORIGIN",
            help="Where the page will be, such as https://example.org (default: anywhere)",
        ),
    ] = None,
) -> None:
    """Write an upload form: one HTML file that needs no server. Whoever has it may upload until it expires."""
    from provisioner.jobs.stores import link_opener
    from provisioner.links.pages import FormOptions, upload_form
    from provisioner.s3.cors import check, ensure
    from provisioner.s3url import parse_url

    output = streams(context)
    where = parse_url(prefix)
    page_options = FormOptions(title, option_size("--max-bytes", max_bytes), success_url or "")
    store, signer = link_opener(endpoint_url, option_seconds("--expires", expires), local=local)(where.bucket)
    page = upload_form(signer, where.prefix, page_options)
    allowed = origins or ["*"]
    if cors:
        done = ensure(store, allowed)
        text = "now allows" if done else "already allowed"
        output.event(Event("cors", f"the bucket {text} uploads from pages at {', '.join(allowed)}"))
    elif warning := check(store, allowed):
        output.event(Event("warning", f"warning: {warning}"))
    _write(target, page, output)


def _print(output: Output, found: "Sequence[Link]", data: object, *, curl: bool, qr: bool = False) -> None:
    if output.as_json:
        output.result("", data)
        return
    lines = [link.curl() if curl else link.url for link in found]
    if qr:
        from provisioner.links.pages import qr_text

        lines = [f"{line}\n{qr_text(link)}" for line, link in zip(lines, found, strict=True)]
    output.raw("".join(f"{line}\n" for line in lines).encode())


def _write(path: Path, text: str, output: Output) -> None:
    if str(path) == "-":
        output.raw(text.encode())
        return
    try:
        if _is_stream(path):
            path.write_text(text, encoding="utf-8")
        else:
            atomic.write(path.resolve(), text)  # what a symlink leads to is replaced, the link stays
    except OSError as error:
        raise BadInput(f"can't write {path}: {error.strerror}", hint="name a file in a folder of yours") from None
    output.event(Event("written", f"wrote {path}: whoever can read this file may use it until it expires"))


def _is_stream(path: Path) -> bool:
    """Whether a file has to be written into: a pipe, a device, or what /dev/stdout stands for, which may be a file."""
    return (path.exists() and not path.is_file()) or path.absolute().is_relative_to("/dev")
