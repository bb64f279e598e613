"""The commands that hand out presigned material: `url get`, `url put`, `sign` and `form`.

What they make goes to standard output or to the file that is named, and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provisioner import options, units
from provisioner.errors import BadInput, NotFound
from provisioner.output import Event, Output

if TYPE_CHECKING:
    from provisioner.links import Link, Signer
    from provisioner.store import Store

prefix_argument = click.argument("prefix", metavar="s3://BUCKET/PREFIX", help="Where uploads go.")
local = click.option("--local", is_flag=True, help="The bucket is one of the embedded store.")
curl_flag = click.option("--curl", is_flag=True, help="Print curl commands instead of URLs.")


def expires(default: str) -> Callable[[options.Command], options.Command]:
    """Take --expires, `default` if it isn't given."""
    text = "How long it works, e.g. 90s, 1h30m; at most 7d."
    return click.option("--expires", metavar="TIME", default=default, help=text)


def max_bytes(default: str) -> Callable[[options.Command], options.Command]:
    """Take --max-bytes, `default` if it isn't given."""
    return click.option("--max-bytes", metavar="SIZE", default=default, help="The largest file, e.g. 100MB, 5GiB.")


def register(app: click.Group) -> None:
    """Add the commands to `provision`."""
    app.add_command(url_app)
    app.add_command(sign)
    app.add_command(form)


@click.group("url")
def url_app() -> None:
    """Presigned URLs: download links and upload slots."""


@url_app.command()
@click.argument(
    "keys", metavar="s3://BUCKET/KEY...", nargs=-1, required=True, help="Objects; all below one that ends in /."
)
@options.endpoint_url
@local
@expires("1h")
@click.option("--filename", metavar="NAME", help="The name that a browser saves it under.")
@click.option("--content-type", metavar="TYPE", help="The type it is served with.")
@click.option(
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="A response header to override, e.g. 'Cache-Control: x'.",
)
@click.option("--qr", is_flag=True, help="Print a QR code below each URL, or into the page of --html.")
@options.json_document
@curl_flag
@click.option("--html", metavar="FILE", type=options.FILE, help="Write a page of the links.")
@click.option("--title", metavar="TEXT", default="Files to download", help="The page's title.")
@click.option("--check/--no-check", default=True, help="See that each object is there.")
@click.pass_obj
def get(  # noqa: PLR0913 - flags
    output: Output,
    *,
    keys: tuple[str, ...],
    endpoint_url: str | None,
    local: bool,
    expires: str,
    filename: str | None,
    content_type: str | None,
    headers: tuple[str, ...],
    qr: bool,
    curl: bool,
    html: Path | None,
    title: str,
    check: bool,
) -> None:
    """Print download links, one a line: whoever has one may download that object until it expires."""
    from provisioner import links

    if output.as_json and str(html) == "-":
        raise BadInput("--json and --html - both want standard output", hint="name a file for --html")
    overrides = links.parse_overrides(headers)
    if content_type:
        overrides["content-type"] = links.header_value("--content-type", content_type)
    if filename:
        if len(keys) != 1 or keys[0].endswith("/"):
            raise BadInput("--filename names one object's file, and there are several", hint="give one key")
        overrides["content-disposition"] = links.disposition(filename)
    seconds = _duration(expires)
    opener = _opener(endpoint_url, seconds, local=local)
    found: list[Link] = []
    for url in keys:
        bucket, key = links.split(url)
        store, signer = opener(bucket)
        if not key or key.endswith("/"):
            listed = [item for item in store.list(key) if not item.key.endswith("/")]
            if not listed:
                raise NotFound(f"there is nothing below {url}", hint="correct the prefix")
            found += [
                signer.get(item.key, overrides=overrides, file=item.key[len(key) :], size=item.size) for item in listed
            ]
        else:
            size = _size_of(store, key) if check else None
            found.append(signer.get(key, overrides=overrides, file=filename or "", size=size))
    found = links.apart(found)
    if html is not None:
        from provisioner import form as forms

        _write(html, forms.index(found, title=title, qr=qr), output)
        if not output.as_json:
            return
    _print(output, found, {"links": [link.describe() for link in found]}, curl=curl, qr=qr)


@url_app.command()
@click.argument("key", metavar="s3://BUCKET/KEY", help="The object to be.")
@options.endpoint_url
@local
@expires("1h")
@click.option("--size", metavar="BYTES", help="Exactly this many bytes.")
@click.option("--type", "content_type", metavar="TYPE", help="Exactly this content type.")
@click.option("--sha256", metavar="HEX", help="Exactly these contents.")
@click.option("--no-overwrite", is_flag=True, help="Only while there is no such object.")
@click.option("--file", metavar="FILE", help="The local file in the curl command.")
@options.json_document
@curl_flag
@click.pass_obj
def put(  # noqa: PLR0913 - flags
    output: Output,
    *,
    key: str,
    endpoint_url: str | None,
    local: bool,
    expires: str,
    size: str | None,
    content_type: str | None,
    sha256: str | None,
    no_overwrite: bool,
    file: str | None,
    curl: bool,
) -> None:
    """Print an upload slot: whoever has it may write that one object, by PUT, until it expires."""
    from provisioner import links

    bucket, name = links.one_key(key)
    _, signer = _opener(endpoint_url, _duration(expires), local=local)(bucket)
    link = signer.put(
        name,
        size=_bytes("--size", size) if size else None,
        content_type=content_type or "",
        sha256=sha256 or "",
        overwrite=not no_overwrite,
        file=file or "",
    )
    if link.headers and not (output.as_json or curl):
        needed = ", ".join(f"{header}: {value}" for header, value in link.headers.items())
        output.event(Event("headers", f"send it with exactly these headers: {needed}"))
    _print(output, [link], link.describe(), curl=curl)


@click.command()
@prefix_argument
@options.endpoint_url
@local
@expires("1h")
@max_bytes("5GiB")
@click.option(
    "--format",
    "form_of",
    type=click.Choice(["grant", "json", "curl"]),
    default="grant",
    help="grant: for `agent push`; json: url and fields, as boto3 gives; curl: a line.",
)
@click.option("--file", metavar="FILE", default="FILE", help="The local file in the curl command.")
@click.option(
    "--put",
    "names",
    metavar="NAME",
    multiple=True,
    help="A grant of presigned PUTs, for stores that take no forms.",
)
@click.pass_obj
def sign(  # noqa: PLR0913 - flags
    output: Output,
    *,
    prefix: str,
    endpoint_url: str | None,
    local: bool,
    expires: str,
    max_bytes: str,
    form_of: str,
    file: str,
    names: tuple[str, ...],
) -> None:
    """Print a POST policy: whoever has it may write any object below the prefix until it expires."""
    from agent import grant as grants
    from provisioner import links

    bucket, folder = links.folder(prefix)
    _, signer = _opener(endpoint_url, _duration(expires), local=local)(bucket)
    limit = _bytes("--max-bytes", max_bytes)
    if names and form_of != "grant":
        raise BadInput("--put makes a grant, for `agent push`", hint="for one URL, use `provision url put`")
    if form_of == "grant":
        text = grants.dump(signer.grant(folder, max_bytes=limit, names=names))
    else:
        target = signer.post(folder, max_bytes=limit)
        if form_of == "json":
            text = json.dumps({"url": target.url, "fields": links.post_fields(target)})
        else:
            text = links.curl_form(target, file)
    output.raw(f"{text}\n".encode())


@click.command()
@prefix_argument
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=options.FILE,
    required=True,
    help="The page; - for standard output.",
)
@options.endpoint_url
@local
@expires("1d")
@max_bytes("100MB")
@click.option("--title", metavar="TEXT", default="Upload files", help="The page's title.")
@click.option("--success-url", metavar="URL", help="The page that follows an upload.")
@click.option("--cors", is_flag=True, help="Set the bucket's CORS rules so that the page works.")
@click.option(
    "--origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Where the page will be, e.g. https://example.org; anywhere if not given.",
)
@click.pass_obj
def form(  # noqa: PLR0913 - flags
    output: Output,
    *,
    prefix: str,
    target: Path,
    endpoint_url: str | None,
    local: bool,
    expires: str,
    max_bytes: str,
    title: str,
    success_url: str | None,
    cors: bool,
    origins: tuple[str, ...],
) -> None:
    """Write an upload form: one HTML file that needs no server. Whoever has it may upload until it expires."""
    from provisioner import cors as rules
    from provisioner import form as forms
    from provisioner import links

    bucket, folder = links.folder(prefix)
    page_options = forms.FormOptions(title, _bytes("--max-bytes", max_bytes), success_url or "")
    store, signer = _opener(endpoint_url, _duration(expires), local=local)(bucket)
    page = forms.upload_form(signer, folder, page_options)
    allowed = list(origins) or ["*"]
    if cors:
        done = rules.ensure(store, allowed)
        text = "now allows" if done else "already allowed"
        output.event(Event("cors", f"the bucket {text} uploads from pages at {', '.join(allowed)}"))
    elif warning := rules.check(store, allowed):
        output.event(Event("warning", f"warning: {warning}"))
    _write(target, page, output)


def _opener(endpoint_url: str | None, seconds: int, *, local: bool) -> Callable[[str], tuple[Store, Signer]]:
    """Return a function that opens a bucket once, and what signs for it."""
    from provisioner import links, session
    from provisioner.jobs import Place
    from provisioner.spec import StoreSpec

    if local and endpoint_url:
        raise BadInput(
            "--local is the embedded store, and --endpoint-url another",
            hint="give one of them; FREEPOST_ENDPOINT_URL counts",
        )
    opened: dict[str, tuple[Store, Signer]] = {}

    def open_bucket(bucket: str) -> tuple[Store, Signer]:
        if bucket not in opened:
            elsewhere = Place(StoreSpec(bucket, "", endpoint_url), embedded=False)
            store = session.open_place(session.embedded_place(bucket, "") if local else elsewhere).store
            signer = links.signer(store.bucket, store.credentials, now=session.clock(), seconds=seconds)
            opened[bucket] = store, signer
        return opened[bucket]

    return open_bucket


def _size_of(store: Store, key: str) -> int:
    try:
        return store.size(key)
    except NotFound:
        raise NotFound(
            f"there is no object s3://{store.bucket.name}/{key}", hint="--no-check makes the link all the same"
        ) from None


def _print(output: Output, found: Sequence[Link], data: Any, *, curl: bool, qr: bool = False) -> None:  # noqa: ANN401 - JSON
    if output.as_json:
        output.result("", data)
        return
    lines = [link.curl() if curl else link.url for link in found]
    if qr:
        from provisioner import form as forms

        lines = [f"{line}\n{forms.qr_text(link)}" for line, link in zip(lines, found, strict=True)]
    output.raw("".join(f"{line}\n" for line in lines).encode())


def _write(path: Path, text: str, output: Output) -> None:
    if str(path) == "-":
        output.raw(text.encode())
        return
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"can't write {path}: {error.strerror}", hint="name a file in a folder of yours") from None
    output.event(Event("written", f"wrote {path}: whoever can read this file may use it until it expires"))


def _duration(text: str) -> int:
    try:
        return units.seconds(text)
    except ValueError:
        raise BadInput(f"--expires {text!r} is no duration", hint="such as 90s, 10m, 1h30m or 2d") from None


def _bytes(flag: str, text: str) -> int:
    try:
        return units.size(int(text) if text.isascii() and text.isdecimal() else text)
    except ValueError:
        raise BadInput(f"{flag} {text!r} is no size", hint="bytes, or such as 10MB, 64MiB or 5GiB") from None
