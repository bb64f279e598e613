"""Download links of what a command line names: objects, and everything below prefixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from provisioner.errors import BadInput, NotFound
from provisioner.links.headers import disposition, header_value, parse_overrides
from provisioner.links.link import Link, with_distinct_files
from provisioner.links.signer import LinkSigner
from provisioner.s3url import S3Url, parse_url, show_url


class Listed(Protocol):
    """What is asked of each object in a listing."""

    @property
    def key(self) -> str:
        """Its whole key."""

    @property
    def size(self) -> int:
        """Its bytes."""


class Lister(Protocol):
    """What is asked of a store (`provisioner.s3.bucket.Store`)."""

    def list(self, prefix: str, /) -> Sequence[Listed]:
        """Every object below a prefix."""

    def size(self, key: str, /) -> int:
        """The bytes of an object. Raise NotFound when it isn't there."""


OpenBucket = Callable[[str], tuple[Lister, LinkSigner]]


@dataclass(frozen=True)
class DownloadOptions:
    """What the links of one command have in common. `headers` are ``Name: value`` lines; `check` that objects exist."""

    headers: Sequence[str] = ()
    content_type: str | None = None
    filename: str | None = None
    check: bool = True

    def overrides(self) -> dict[str, str]:
        """The response headers to override, by their lower-case names. Raise BadInput for what can't be one."""
        found = parse_overrides(self.headers)
        if self.content_type:
            found["content-type"] = header_value("content_type", self.content_type)
        if self.filename:
            found["content-disposition"] = disposition(self.filename)
        return found


def sign_downloads(urls: Sequence[str], open_bucket: OpenBucket, options: DownloadOptions) -> list[Link]:
    """Sign a link for each object that `urls` name, and for each below a URL that ends in a slash.

    Raise NotFound for what isn't there, BadInput for options that don't fit.
    """
    overrides = options.overrides()
    if options.filename and (len(urls) != 1 or urls[0].endswith("/")):
        raise BadInput(
            "it names the file of one object, and there are several", argument="filename", hint="give one key"
        )
    links: list[Link] = []
    for url in urls:
        where = parse_url(url)
        store, signer = open_bucket(where.bucket)
        if where.is_object:
            size = _size(store, where) if options.check else None
            links.append(signer.get(where.key, overrides=overrides, file=options.filename or "", size=size))
        else:
            links += _below(store, signer, where, overrides)
    return with_distinct_files(links)


def _below(store: Lister, signer: LinkSigner, where: S3Url, overrides: Mapping[str, str]) -> list[Link]:
    listed = [item for item in store.list(where.key) if not item.key.endswith("/")]
    if not listed:
        raise NotFound(f"there is nothing below {show_url(*where)}", hint="correct the prefix")
    start = len(where.key)
    return [signer.get(item.key, overrides=overrides, file=item.key[start:], size=item.size) for item in listed]


def _size(store: Lister, where: S3Url) -> int:
    try:
        return store.size(where.key)
    except NotFound:
        raise NotFound(
            f"there is no object {show_url(*where)}", hint="--no-check makes the link all the same"
        ) from None
