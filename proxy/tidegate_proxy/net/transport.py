"""Making transports of connected sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from tidegate_proxy.core import COMPILED

if COMPILED:
    from tidegate_proxy.core.transport import DirectTransport, TLSTransport

HANDSHAKE_TIMEOUT = 60.0
"""Seconds, where the caller has no other limit."""


class Receiver(Protocol):
    """What a transport calls: an asyncio.Protocol, whatever its class."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It belongs to this transport now."""

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""

    def eof_received(self) -> bool | None:
        """No more will come."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""

    def pause_writing(self) -> None:
        """More is waiting to be sent than should be."""

    def resume_writing(self) -> None:
        """Enough of it has been sent."""


async def connect(addresses: Sequence[str], port: int, *, within: float, user_timeout: float) -> socket.socket:
    """A connected, non-blocking socket.

    Parameters: `addresses`, IP addresses to try in turn, each for its share of `within` seconds; `user_timeout`, see
    `notice_silence`.
    Raises: OSError, of the last address when none answers; TimeoutError is one.
    """
    loop = asyncio.get_running_loop()
    failed: OSError | None = None
    for address in addresses:
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_silence(connection, user_timeout)
            async with asyncio.timeout(within / len(addresses)):
                await loop.sock_connect(connection, (address, port))
        except OSError as error:
            connection.close()
            failed = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    assert failed is not None, "there is at least one address"
    raise failed


def notice_silence(connection: socket.socket, seconds: float) -> None:
    """Let the kernel end a connection whose other side has acknowledged nothing for so long; 0: for its own two hours.

    TCP_USER_TIMEOUT is about data that was sent; while nothing is, keepalive probes are sent for it to count from.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if seconds <= 0:
        return
    probe = max(1, round(seconds / 3))
    # Linux has all of them.
    for name, value in (
        ("TCP_KEEPIDLE", probe),
        ("TCP_KEEPINTVL", probe),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", round(seconds * 1000)),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def hand_down(listener: socket.socket, user_timeout: float) -> None:
    """Set the options of every TCP connection that will be accepted: it gets them from the socket that listens, which
    spares each a system call for each.

    Parameters: `user_timeout`, see `notice_silence`.
    """
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_silence(listener, user_timeout)


def directly(loop: asyncio.AbstractEventLoop, connection: socket.socket, protocol: Receiver) -> asyncio.Transport:
    """As `plain`, without waiting: for the compiled core only. Raises: OSError, the socket is closed then."""
    try:
        return DirectTransport(loop, connection, protocol)
    except BaseException:
        connection.close()
        raise


def directly_over_tls(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: Receiver,
    context: ssl.SSLContext,
    received: bytes,
) -> TLSTransport:
    """Go on over TLS on a transport from `directly`, which must not be used any more, as the server.

    Parameters: `received`, what has come of the handshake already. Returns: the new transport, which the protocol is
    told of at the end of the handshake.
    """
    assert isinstance(transport, DirectTransport)
    connection = transport.detach()
    try:
        return TLSTransport(loop, connection, protocol, context, True, received=received)
    except BaseException:
        connection.close()
        raise


async def plain(connection: socket.socket, protocol: Receiver, *, goes_first: bool = False) -> asyncio.Transport:
    """A transport for a connected, non-blocking socket, which belongs to it from now on.

    Parameters: `goes_first`, if it can: what comes here is dealt with before what comes elsewhere at the same time.
    """
    loop = asyncio.get_running_loop()
    if COMPILED:
        return DirectTransport(loop, connection, protocol, goes_first)
    transport, _ = await loop.connect_accepted_socket(_factory(protocol), connection)
    return transport


async def over_tls(
    connection: socket.socket,
    protocol: Receiver,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
) -> asyncio.Transport:
    """The same over TLS, whose handshake begins now; `handshake_timeout` in seconds.

    Raises: ssl.SSLError, ConnectionError.
    """
    loop = asyncio.get_running_loop()
    if COMPILED:
        return await _directly_over_tls(connection, protocol, context, server_side, server_hostname, handshake_timeout)
    if server_side:
        transport, _ = await loop.connect_accepted_socket(
            _factory(protocol), connection, ssl=context, ssl_handshake_timeout=handshake_timeout
        )
    else:
        transport, _ = await loop.create_connection(
            _factory(protocol),
            ssl=context,
            sock=connection,
            server_hostname=server_hostname,
            ssl_handshake_timeout=handshake_timeout,
        )
    return transport


async def _directly_over_tls(
    connection: socket.socket,
    protocol: Receiver,
    context: ssl.SSLContext,
    server_side: bool,
    server_hostname: str | None,
    handshake_timeout: float,
) -> asyncio.Transport:
    try:
        transport = TLSTransport(
            asyncio.get_running_loop(), connection, protocol, context, server_side, server_hostname, not server_side
        )
    except BaseException:
        connection.close()
        raise
    try:
        async with asyncio.timeout(handshake_timeout):
            await transport.handshake
    except TimeoutError:
        transport.abort()
        raise ConnectionAbortedError(f"the TLS handshake took longer than {handshake_timeout:g} s") from None
    except BaseException:
        transport.abort()
        raise
    return transport


async def start_tls(
    transport: asyncio.Transport,
    protocol: Receiver,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
) -> asyncio.Transport:
    """Go on over TLS on the connection of a plain transport, which must not be used any more.

    Raises: ssl.SSLError, ConnectionError.
    """
    detach = getattr(transport, "detach", None)
    if detach is not None:
        return await over_tls(
            detach(),
            protocol,
            context,
            server_side=server_side,
            server_hostname=server_hostname,
            handshake_timeout=handshake_timeout,
        )
    secured = await asyncio.get_running_loop().start_tls(
        transport,
        cast(asyncio.Protocol, protocol),
        context,
        server_side=server_side,
        server_hostname=server_hostname,
        ssl_handshake_timeout=handshake_timeout,
    )
    assert secured is not None
    protocol.connection_made(secured)
    return secured


def _factory(protocol: Receiver) -> Callable[[], Any]:
    return lambda: protocol
