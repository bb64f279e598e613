"""The service's own files: the key that its tokens are made with, and the list of the tokens that are revoked."""

from __future__ import annotations

import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.errors import BadInput, NotFound

KEY_BYTES = 32
_ID = re.compile(r"[0-9a-f]{16}")


def new_id() -> str:
    """A token's public name: 16 hex digits."""
    return secrets.token_hex(8)


def read_key(path: Path, *, make: bool = False) -> bytes:
    """Return the key in `path`, making it first if it isn't there and `make` says so.

    The file holds 64 hex digits and is its owner's alone. Raise NotFound, or BadInput for one that isn't so.
    """
    if make:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        try:
            os.link(fresh, path)  # unlike a rename, never over a key that is there
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(1000).strip()
    except FileNotFoundError:
        raise NotFound(
            f"there is no token key {path}", hint="`provision token` makes it; copy it to the service"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the token key {path} can't be read: {type(error).__name__}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(
            f"others can read the token key {path}", hint=f"chmod 600 {path}, and make a new one if they did"
        )
    if not re.fullmatch(f"[0-9a-f]{{{2 * KEY_BYTES}}}", text):
        raise BadInput(f"{path} is not a token key (64 hex digits)", hint="name the file that `provision token` made")
    return bytes.fromhex(text)


@dataclass
class RevokedTokens:
    """The ids in a file, one a line, ``#`` for comments. Read again whenever the file has changed."""

    path: Path
    _seen: tuple[int, int, int] | None = None
    _ids: frozenset[str] = frozenset()
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ids(self) -> frozenset[str]:
        """What is revoked now. A list that has become unreadable raises OSError: nothing is signed then."""
        with self._lock:
            try:
                found = self.path.stat()
            except FileNotFoundError:
                self._seen, self._ids = None, frozenset()
                return self._ids
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                lines = self.path.read_text().splitlines()
                self._ids = frozenset(line.partition("#")[0].strip() for line in lines)
                self._seen = seen
            return self._ids

    def add(self, token_id: str) -> bool:
        """Revoke a token. False if it was already."""
        if not _ID.fullmatch(token_id):
            raise BadInput(
                f"invalid token id {token_id!r}", hint="16 hex digits; `provision token --show FILE` prints it"
            )
        if token_id in self.ids():
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            open_line = file.read() not in {b"", b"\n"}  # an editor that leaves out the last newline
            file.write(b"\n" * open_line + token_id.encode() + b"\n")
        return True
