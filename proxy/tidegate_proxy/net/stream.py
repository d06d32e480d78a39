"""The asyncio side of a login: whole messages in, bytes out, until the connection is handed to the per-message path."""

from __future__ import annotations

import asyncio
from typing import cast

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.net.transport import Receiver
from tidegate_proxy.protocol import wire
from tidegate_proxy.protocol.startup import StartupMessage

_READ_AHEAD = 1 << 16


class Stream(asyncio.Protocol):
    """A `protocol.stream.MessageStream` over an asyncio transport.

    Parameters
    - `error`: which kind of ProxyError a malformed message is, by whose fault that would be.
    """

    def __init__(self, error: type[ProxyError]) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.channel_binding: bytes | None = None
        # What counts as one source of logins; "" on a Unix socket.
        self.source = ""
        # Of the process at the other end, on a Unix socket.
        self.peer_uid: int | None = None
        # What a client said of itself at first.
        self.startup: StartupMessage | None = None
        self._error = error
        self._buffer = bytearray()
        self._lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, and again once TLS is up."""
        self.transport = cast(asyncio.Transport, transport)

    @property
    def secure(self) -> bool:
        """Whether TLS is up."""
        return self.transport.get_extra_info("ssl_object") is not None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._lost is not None

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._buffer += data
        if len(self._buffer) > _READ_AHEAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._lost = exc or ConnectionResetError("the connection was closed")
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ended(self) -> None:
        """Wait until the connection has ended. Nobody may read meanwhile."""
        while self._lost is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def read_exactly(self, size: int) -> bytes:
        """Wait for `size` bytes. Raises: ConnectionError when the connection ends before."""
        if len(self._buffer) < size:
            await self._until_there(size)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def _until_there(self, size: int) -> None:
        while len(self._buffer) < size:
            if self._lost is not None:
                raise ConnectionResetError("the connection was closed") from self._lost
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        """Wait for one message: its type and body. Raises: see MessageStream."""
        buffer = self._buffer
        if not buffer:
            await self._until_there(1)
        kind = buffer[0]
        if not chr(kind).isascii() or not chr(kind).isalpha():
            # A second StartupMessage, say, whose first bytes would make a length that never comes.
            raise self._error(f"invalid message type {kind}")
        if len(buffer) < 5:
            await self._until_there(5)
        length = int.from_bytes(buffer[1:5], "big")
        if not 4 <= length <= limit + 4:
            raise self._error(f"invalid message length {length} for message type 0x{kind:02X}")
        if len(buffer) <= length:
            await self._until_there(1 + length)
        body = bytes(buffer[5 : 1 + length])
        del buffer[: 1 + length]
        return kind, body

    async def read_startup(self) -> bytes:
        """Wait for a first packet, which has no type; returns its body."""
        length = int.from_bytes(await self.read_exactly(4), "big") - 4
        if not 4 <= length <= wire.MAX_STARTUP_PACKET:
            raise self._error("invalid length of startup packet")
        return await self.read_exactly(length)

    def write(self, data: bytes) -> None:
        """Send."""
        self.transport.write(data)

    @property
    def pending(self) -> bool:
        """Whether bytes have come that nobody has read."""
        return bool(self._buffer)

    def hand_over(self, protocol: Receiver) -> None:
        """Let `protocol` have the connection from here on, with the bytes that were read ahead."""
        self.transport.set_protocol(cast(asyncio.Protocol, protocol))
        protocol.connection_made(self.transport)
        if self._lost is not None:
            protocol.connection_lost(self._lost)
            return
        if self._paused:
            self.transport.resume_reading()
        if self._buffer:
            protocol.data_received(bytes(self._buffer))
