"""A throw-away `rclone serve s3`: a store that takes no forms, as R2 and B2 don't, on loopback, in a folder of its own.

What it really does (1.75): it checks the signature, the expiry (answering 400, not 403), `Content-MD5` and a signed
`Content-Length` of presigned requests; it refuses every unsigned `x-amz-*` header, and takes a signed checksum header
without comparing it. Multipart uploads are presigned like the rest, but a part that was sent can't be replaced by other
bytes (501), and forms are answered 400 UnsupportedAlgorithm. It has no bucket policies and no sessions.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 30
PROGRAM = Path(sys.executable).parent / "rclone"  # the package puts it beside the interpreter


@dataclass(frozen=True)
class Rclone:
    """A running server, with the same words as `embedded.client.Running`."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    version: str
    region: str = "us-east-1"


def version() -> str:
    """The program's own word for its version, such as v1.75.2."""
    return subprocess.run([PROGRAM, "version"], capture_output=True, text=True, check=True).stdout.split()[1]


@contextlib.contextmanager
def running() -> Iterator[Rclone]:
    """Start a server, and leave neither process, port nor folder behind."""
    folder = Path(tempfile.mkdtemp(prefix="freepost-rclone-"))
    access, secret = "operator", secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    (folder / "data").mkdir()
    # The key goes by the environment: a command line is for everyone to read.
    env = {"HOME": str(folder), "RCLONE_AUTH_KEY": f'"{access},{secret}"'}
    words = [PROGRAM, "serve", "s3", "--addr", f"127.0.0.1:{port}", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, f"rclone did not listen within {START_SECONDS} s"
                time.sleep(0.05)  # it says so only in its log
        yield Rclone(f"http://127.0.0.1:{port}", access, secret, version())
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
