"""Where the service listens: loopback, a Unix socket, or anywhere under TLS. A token in clear on a network is lost."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from provisioner.errors import BadInput
from provisioner.output import Event, Report

_BACKLOG = 128
_CONCURRENT = 200


@dataclass(frozen=True)
class Address:
    """Where to listen: a Unix socket's path, or a host and port, with a certificate and key or without."""

    host: str = "127.0.0.1"
    port: int = 8450
    unix: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def check(address: Address) -> None:
    """Raise BadInput for an address that the service must not listen on."""
    if address.certificate is not None and address.key is None:
        raise BadInput("needs --tls-key, too", argument="tls_cert")
    if address.key is not None and address.certificate is None:
        raise BadInput("needs --tls-cert, too", argument="tls_key")
    if address.unix is None and address.certificate is None and not _loopback(address.host):
        raise BadInput(
            f"{address.host} is not this machine's loopback: tokens would cross the network in clear",
            hint="give --tls-cert and --tls-key, or listen on 127.0.0.1 or on --unix PATH",
        )
    if address.certificate is not None and address.key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(address.certificate, address.key)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(
                f"the certificate or its key can't be used: {error.strerror or type(error).__name__}"
            ) from None


def _loopback(host: str) -> bool:
    """Tell whether every address that `host` stands for is of the loopback. A name may stand for several."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise BadInput(f"there is no address {host!r} to listen on") from None
    return bool(found) and all(ipaddress.ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)


def serve(app: FastAPI, address: Address, report: Report) -> None:
    """Answer until SIGINT or SIGTERM. Requests under way are finished, for 5 seconds at most."""
    check(address)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anyone on loopback could claim any address
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        limit_concurrency=_CONCURRENT,
        timeout_graceful_shutdown=5,
        lifespan="off",
    )
    with _bound(address) as listening, _terminable():
        where = _shown(address, listening)
        report(Event("listening", f"listening on {where}", {"address": where}))
        uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _bound(address: Address) -> Iterator[socket.socket]:
    if address.unix is not None:
        with _unix(address.unix) as bound:
            yield bound
        return
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise BadInput(f"can't listen on {address.host} port {address.port}: {error.strerror}") from None
    with bound:
        yield bound


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that only its owner can open; one that a dead service left is taken over."""
    bound = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise BadInput(f"another process listens on {path} already")
            path.unlink()
        # Bound under a name of its own, so that nobody connects before the mode is right.
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        bound.bind(str(fresh))
        fresh.chmod(0o600)
        bound.listen(_BACKLOG)
        fresh.rename(path)
    except OSError as error:
        bound.close()
        raise BadInput(f"can't listen on {path}: {error.strerror or error}") from None
    try:
        yield bound
    finally:
        bound.close()
        path.unlink(missing_ok=True)


def _shown(address: Address, listening: socket.socket) -> str:
    if address.unix is not None:
        return f"unix:{address.unix}"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http{'s' * (address.certificate is not None)}://{host}:{listening.getsockname()[1]}"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end this command like an interrupt: uvicorn, once done, raises the signal again."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        pass  # what was asked for
    finally:
        signal.signal(signal.SIGTERM, before)
