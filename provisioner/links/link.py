"""One presigned request, and the names under which what it fetches or sends lies on someone's disk."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from provisioner.clock import iso
from provisioner.s3url import CONTROL


@dataclass(frozen=True)
class Link:
    """One presigned request. Whoever sends it sends exactly `headers`; `file` is what the file is called locally."""

    method: str
    bucket: str
    key: str
    url: str = field(repr=False)
    expires: datetime
    file: str
    headers: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None

    def curl(self) -> str:
        """A line for a shell that carries the request out; it fails, with exit code 22, when the store refuses."""
        words = ["curl", "-f", "-g"]  # or it would read {} and [] in -T, and #1 in -o, as patterns
        if "/." in self.key or self.key.startswith("."):
            words.append("--path-as-is")
        if self.method == "GET":
            words += ["--create-dirs"] if "/" in self.file else []
            words += ["-o", self.file]
        else:
            words += ["-T", self.file]
        for name, value in self.headers.items():
            if name != "content-length":  # curl counts the file's bytes itself
                words += ["-H", f"{name}: {value}"]
        return shlex.join([*words, self.url])

    def describe(self) -> dict[str, Any]:
        """The link as JSON holds it."""
        size = {"size": self.size} if self.size is not None else {}
        return {
            "method": self.method,
            "bucket": self.bucket,
            "key": self.key,
            **size,
            "url": self.url,
            "headers": dict(self.headers),
            "expires": iso(self.expires),
            "curl": self.curl(),
        }


def local_name(key: str) -> str:
    """A path that is safe to write to below the current folder, near to `key`."""
    parts = [CONTROL.sub("_", part) for part in key.split("/")]
    path = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return f"./{path}" if path.startswith("-") else path


def with_distinct_files(links: Sequence[Link]) -> list[Link]:
    """Keep links of different objects from being saved under one name: these get the whole path of their keys."""
    names = Counter(file for file, _, _ in {(link.file, link.bucket, link.key) for link in links})
    return [
        link if names[link.file] == 1 else replace(link, file=local_name(f"{link.bucket}/{link.key}")) for link in links
    ]
