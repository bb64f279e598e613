"""Writes a file whole or not at all: under a name of its own first, which is then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Give a new file, which replaces `path` when the block ends; it is deleted when the block raises.

    It lies in the same folder, is named ``.freepost-…`` until then, and only its owner can read it (mode 0600), from
    its first byte on. Raise OSError.
    """
    descriptor, name = tempfile.mkstemp(prefix=".freepost-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes | str) -> None:
    """Write a file of mode 0600 in one step, text as UTF-8. Raise OSError."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
