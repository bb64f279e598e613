"""Carries the connections that a guest makes to the store over to the operator's loopback.

The listening socket belongs to the guest's side of the network, the connections that we make to the host's: a socket
stays in the namespace it was made in. So one port of the host is within the guest's reach, and nothing else is.
"""

from __future__ import annotations

import asyncio
import socket

_BLOCK = 256 << 10


async def serve(listener: socket.socket, host: str, port: int) -> asyncio.Server:
    """Accept on `listener` and connect each to `host`:`port`, until the server that is returned is closed."""

    async def relay_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            store_reader, store_writer = await asyncio.open_connection(host, port, limit=_BLOCK)
        except OSError:
            writer.transport.abort()  # to the guest it looks as it would on the host: refused
            return
        try:
            await asyncio.gather(_copy(reader, store_writer), _copy(store_reader, writer))
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            store_writer.transport.abort()
        finally:
            writer.close()
            store_writer.close()

    return await asyncio.start_server(relay_connection, sock=listener, limit=_BLOCK)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(_BLOCK):
        writer.write(block)
        await writer.drain()
    writer.write_eof()
