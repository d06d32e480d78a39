"""The first byte of a client, where transports cannot give back what they have received: TLS or not."""

from __future__ import annotations

import asyncio
import socket

from tidegate_proxy.net.stream import Stream
from tidegate_proxy.net.transport import over_tls, plain
from tidegate_proxy.tls import ServerTLS

TLS_HANDSHAKE = 0x16
"""The type of a TLS record that begins a handshake."""


async def open_stream(
    connection: socket.socket, stream: Stream, tls: ServerTLS | None, handshake_timeout: float
) -> None:
    """Give a stream an accepted, non-blocking socket; a client that starts with TLS gets it at once.

    Parameters: `tls`, None to refuse it; `handshake_timeout`, seconds for TLS.
    Raises: ConnectionError, ssl.SSLError. The socket is closed then.
    """
    try:
        if await _first_byte(connection) != TLS_HANDSHAKE:
            await plain(connection, stream)
        elif tls is None:
            raise ConnectionAbortedError("a TLS handshake, but TLS is off")
        else:
            await over_tls(connection, stream, tls.context, server_side=True, handshake_timeout=handshake_timeout)
    except BaseException:
        connection.close()
        raise


async def _first_byte(connection: socket.socket) -> int:
    """Wait for the first byte and leave it where it is."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _settle, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    data = connection.recv(1, socket.MSG_PEEK)
    if not data:
        raise ConnectionResetError("the connection was closed")
    return data[0]


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
