"""Parses user-data of ours: `launch --local` runs from it, and tests read it.

Takes exactly what `userdata.render` writes, and refuses anything else, which cloud-init might not take either.
"""

from __future__ import annotations

import base64
import gzip
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provisioner.errors import BadInput

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class WrittenFile:
    """A decoded entry of ``write_files``."""

    path: str
    mode: int
    content: bytes = field(repr=False)

    def write(self, root: Path, content: bytes | None = None) -> None:
        """Make the file below `root`, for a provider without a VM; `content` replaces what it has.

        It is written through the descriptor that makes it: only root could open a file of mode 0400 once more. For the
        same reason its owner may read it whatever the mode says: here the agent is not root.
        """
        path = root / self.path.lstrip("/")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self.mode | stat.S_IRUSR)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.content if content is None else content)


@dataclass(frozen=True)
class CloudConfig:
    """A parsed document and the files in it."""

    document: dict[str, Any] = field(repr=False)
    files: tuple[WrittenFile, ...]

    def file(self, path: str) -> bytes:
        """Return the content of the file that the VM gets at `path`. Raise BadInput when there is none."""
        for item in self.files:
            if item.path == path:
                return item.content
        message = f"the user-data has no file {path}"
        raise BadInput(message)


def unpack(user_data: bytes) -> CloudConfig:
    """Parse user-data, gzipped or not. Raise BadInput when it isn't a cloud-config of ours."""
    try:
        plain = gzip.decompress(user_data) if user_data.startswith(_GZIP_MAGIC) else user_data
        if not plain.startswith(b"#cloud-config\n"):
            message = "the user-data's first line is not #cloud-config; cloud-init would ignore all of it"
            raise BadInput(message)
        document = yaml.safe_load(plain)
        files = tuple(_written(item) for item in document["write_files"])
    except (OSError, EOFError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        message = f"the user-data can't be parsed: {type(error).__name__}"  # its text could quote the grant
        raise BadInput(message) from None
    return CloudConfig(document, files)


def _written(item: dict[str, str]) -> WrittenFile:
    content = item["content"].encode()
    encoding = item.get("encoding")
    if encoding not in {None, "b64", "gz+b64"}:
        message = f"{item['path']}: encoding is neither b64 nor gz+b64"
        raise BadInput(message)
    if encoding:
        content = base64.b64decode(content, validate=True)
    if encoding == "gz+b64":
        content = gzip.decompress(content)
    return WrittenFile(item["path"], int(item.get("permissions", "0644"), 8), content)
