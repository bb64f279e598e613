"""How much the null store and this machine's SHA-256 can take, so that a reader sees what was the limit."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.works import GIB, KIB, MIB

PUTS = """wrk.method = "PUT"
wrk.body = string.rep("x", {size})
"""


def requests(endpoint: str, folder: Path, seconds: int = 3) -> float | None:
    """PUTs of 4 KiB a second by wrk over 16 connections; None when wrk isn't installed (apt-get install wrk)."""
    if shutil.which("wrk") is None:
        return None
    script = folder / "put.lua"
    script.write_text(PUTS.format(size=4 * KIB))
    command = ["wrk", "-t1", "-c16", f"-d{seconds}", "-s", script, f"{endpoint}/bench/ceiling"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    return float(found[1]) if found else None


def sha256(size: int = GIB // 4) -> float:
    """Bytes a second of SHA-256 on one core: nothing that hashes what it sends gets past it on one core."""
    block = bytes(MIB)
    digest = hashlib.sha256()
    started = time.monotonic()
    for _ in range(size // len(block)):
        digest.update(block)
    return size / (time.monotonic() - started)


def stream(endpoint: str, size: int = 2 * GIB) -> float:
    """Bytes a second of one PUT whose body is in this process's memory: no file, no hash."""
    where = urlsplit(endpoint)
    block = bytes(MIB)
    with socket.create_connection((where.hostname or "", where.port or 0)) as link:
        started = time.monotonic()
        link.sendall(f"PUT /bench/ceiling HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // len(block)):
            link.sendall(block)
        link.recv(4096)
        return size / (time.monotonic() - started)
