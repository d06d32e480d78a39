"""The first bytes of a client: TLS or not, a session or a CancelRequest."""

from __future__ import annotations

import asyncio
import socket

from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.net.transport import over_tls, plain, start_tls
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    parse_startup,
)
from tidegate_proxy.tls import ALPN, ServerTLS

_TLS_HANDSHAKE = 0x16  # the type of a TLS record that begins a handshake


async def open_stream(connection: socket.socket, tls: ServerTLS | None, handshake_timeout: float) -> Stream:
    """Make a stream of an accepted, non-blocking socket; a client that starts with TLS gets it at once.

    Parameters: `tls`, None to refuse it; `handshake_timeout`, seconds for TLS.
    Raises: ClientProtocolError, ConnectionError, ssl.SSLError. The socket is closed then.
    """
    stream = Stream(ClientProtocolError)
    try:
        direct = await _first_byte(connection) == _TLS_HANDSHAKE
        if direct and tls is None:
            raise ConnectionAbortedError("a TLS handshake, but TLS is off")
        if direct and tls is not None:
            await over_tls(connection, stream, tls.context, server_side=True, handshake_timeout=handshake_timeout)
            stream.channel_binding = tls.channel_binding
        else:
            await plain(connection, stream)
    except BaseException:
        connection.close()
        raise
    if direct and stream.transport.get_extra_info("ssl_object").selected_alpn_protocol() != ALPN:
        # Else a browser, or another protocol's client that was lured here, could be made to talk to us.
        stream.write(
            encode.error_response(
                ClientProtocolError(
                    "received direct SSL connection request without ALPN protocol negotiation extension"
                ),
                fatal=True,
            )
        )
        stream.transport.close()
        raise ConnectionAbortedError("direct TLS without ALPN")
    return stream


async def read_first_packet(
    stream: Stream, tls: ServerTLS | None, handshake_timeout: float
) -> StartupMessage | CancelRequest:
    """Read what the client wants, after TLS if it asks for it; parameters as of `open_stream`.

    Raises: ClientProtocolError, ConnectionError, ssl.SSLError.
    """
    # GSSAPI, then TLS, then the session is the longest way that a client may take.
    for _ in range(3):
        packet = parse_startup(await stream.read_startup())
        if isinstance(packet, (StartupMessage, CancelRequest)):
            return packet
        if isinstance(packet, GSSENCRequest) or tls is None or stream.secure:
            stream.write(b"N")
        elif isinstance(packet, SSLRequest):
            if stream.pending:
                # Bytes from before TLS could be anybody's (CVE-2021-23214).
                raise ClientProtocolError("received unencrypted data after SSL request")
            stream.write(b"S")
            await start_tls(
                stream.transport, stream, tls.context, server_side=True, handshake_timeout=handshake_timeout
            )
            stream.channel_binding = tls.channel_binding
    raise ClientProtocolError("a session or a cancel request was expected")


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
