"""Pages for people: the upload form, and an index of download links. Each is one HTML file that loads nothing.

Pure. Values reach the pages through autoescaping and `tojson`; styles and scripts are constant, and a
Content-Security-Policy names them by their hashes, so nothing else runs, whatever an object is called.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import jinja2
import segno
from markupsafe import Markup

from agent.errors import EXPIRED
from provisioner.clock import iso, show_date
from provisioner.errors import BadInput
from provisioner.links.forms import post_fields
from provisioner.links.link import Link
from provisioner.links.signer import LinkSigner
from provisioner.resources import make_environment, templates
from provisioner.s3.answers import ROWS
from provisioner.units import show_bytes

_QR_BYTES = 1800  # a denser code (QR version 32 and up) is beyond what telephones read from a screen


@dataclass(frozen=True)
class FormOptions:
    """What an upload form says and allows. `max_bytes` is for each file; `success_url` is where it leads at last."""

    title: str
    max_bytes: int
    success_url: str = ""


def upload_form(signer: LinkSigner, prefix: str, options: FormOptions) -> str:
    """Return the page that uploads to `prefix`. It is the permission itself: whoever has it may upload.

    It holds two policies: one that the browser's own form can meet, which takes no empty file (that would be a form
    sent without one) and names what follows, and one for the script, which says each file's key and type.
    Raise BadInput when `success_url` is no http or https URL.
    """
    after = {"success_action_redirect": _web_url(options.success_url)} if options.success_url else None
    plain_extra = after or {"success_action_status": "201"}
    plain = signer.post(prefix, max_bytes=options.max_bytes, min_bytes=1, extra=[plain_extra])
    script_extra = {"success_action_status": "201"}
    scripted = signer.post(
        prefix, max_bytes=options.max_bytes, extra=[script_extra, ["starts-with", "$Content-Type", ""]]
    )
    fields = scripted.form() | script_extra
    style = _asset("page.css")
    script = f"(() => {{\n{_asset('upload-words.js')}{_asset('upload.js')}}})();\n"
    store = _origin(signer.bucket.url)
    targets = f"{store} {_origin(options.success_url)}" if options.success_url else store
    return _page(
        "upload.html.j2",
        csp=f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; connect-src {store};"
        f" form-action {targets}; frame-src {store}; base-uri 'none'",
        style=_markup(style),
        script=_markup(script),
        title=options.title,
        limit=show_bytes(options.max_bytes),
        expires=signer.expires,
        url=signer.bucket.url,
        fields=(post_fields(plain) | plain_extra).items(),
        redirects=bool(after),
        data={
            "url": signer.bucket.url,
            "prefix": prefix,
            "fields": fields,
            "maxBytes": options.max_bytes,
            "expires": iso(signer.expires),
            "successUrl": options.success_url,
            "expired": EXPIRED,
            "answers": ROWS,
        },
    )


def index_page(links: Sequence[Link], *, title: str, qr: bool = False) -> str:
    """Return a page of download links, with a QR code for each if asked for. Whoever has it may download."""
    style = _asset("page.css")
    return _page(
        "index.html.j2",
        csp=f"default-src 'none'; style-src {_hashed(style)}; base-uri 'none'; form-action 'none'",
        style=_markup(style),
        title=title,
        expires=min(link.expires for link in links),
        links=[
            {
                "name": link.file.removeprefix("./"),
                "url": link.url,
                "size": "" if link.size is None else show_bytes(link.size),
                "qr": _markup(_qr_code(link).svg_inline(scale=3, light="#fff")) if qr else None,
            }
            for link in links
        ],
    )


def qr_text(link: Link) -> str:
    """Return a link's QR code as text for a terminal. Raise BadInput when the link is too long for one."""
    out = io.StringIO()
    _qr_code(link).terminal(out=out, compact=True)
    return out.getvalue()


def _qr_code(link: Link) -> segno.QRCode:
    if len(link.url) > _QR_BYTES:
        raise BadInput(
            f"the link to {link.key!r} is too long for a QR code ({len(link.url)} bytes; {_QR_BYTES} can be scanned)",
            hint="sign with a long-lived key: a session's token makes links long; or give --html without --qr",
        )
    return segno.make_qr(link.url, error="l")


def _web_url(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise BadInput(
            f"not an http:// or https:// address: {url!r}",
            argument="success_url",
            hint="give the page's whole address",
        )
    return url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _markup(text: str) -> Markup:
    """Text that the page takes as it is: our own constant files, and codes that were drawn here."""
    return Markup(text)  # noqa: S704 - see above


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (templates() / name).read_text(encoding="utf-8")


def _page(template: str, **values: object) -> str:
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return make_environment({"for_people": show_date, "iso": iso})
