"""The asyncio side of a login: whole messages in, bytes out, until the connection is handed to the per-message path."""

from __future__ import annotations

import asyncio
import string
from typing import cast

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.net.transport import Receiver
from tidegate_proxy.protocol import wire
from tidegate_proxy.protocol.startup import StartupMessage

_READ_AHEAD = 1 << 16
_LETTERS = string.ascii_letters.encode()


class Stream(asyncio.Protocol):
    """A `protocol.stream.MessageStream` over an asyncio transport.

    Parameters
    - `error`: which kind of ProxyError a malformed message is, by whose fault that would be.
    """

    __slots__ = (
        "_at",
        "_buffer",
        "_error",
        "_lost",
        "_paused",
        "_waiter",
        "channel_binding",
        "peer_uid",
        "source",
        "startup",
        "transport",
    )

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
        # What has come, and how much of it has been taken.
        self._buffer = b""
        self._at = 0
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
        if self._buffer:
            data = self._buffer[self._at :] + data
            self._at = 0
        self._buffer = data
        if len(data) > _READ_AHEAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        if self._waiter is not None:
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

    def take_message(self, limit: int) -> tuple[int, bytes] | None:
        """One message, its type and body; None while it is not there. Raises: ProxyError, as `read_message`."""
        buffer, at = self._buffer, self._at
        there = len(buffer) - at
        if not there:
            self._need_more()
            return None
        kind = buffer[at]
        if kind not in _LETTERS:
            # A second StartupMessage, say, whose first bytes would make a length that never comes.
            raise self._error(f"invalid message type {kind}")
        if there < 5:
            self._need_more()
            return None
        length = int.from_bytes(buffer[at + 1 : at + 5], "big")
        if not 4 <= length <= limit + 4:
            raise self._error(f"invalid message length {length} for message type 0x{kind:02X}")
        if there <= length:
            self._need_more()
            return None
        return kind, self._take(5, 1 + length)

    def take_startup(self) -> bytes | None:
        """The body of a first packet, which has no type; None while it is not there."""
        there = len(self._buffer) - self._at
        if there < 4:
            self._need_more()
            return None
        length = int.from_bytes(self._buffer[self._at : self._at + 4], "big")
        if not 8 <= length <= wire.MAX_STARTUP_PACKET + 4:
            raise self._error("invalid length of startup packet")
        if there < length:
            self._need_more()
            return None
        return self._take(4, length)

    def _take(self, begin: int, end: int) -> bytes:
        taken = self._buffer[self._at + begin : self._at + end]
        self._at += end
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0
        return taken

    def _need_more(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    async def read_exactly(self, size: int) -> bytes:
        """Wait for `size` bytes. Raises: ConnectionError when the connection ends before."""
        while len(self._buffer) - self._at < size:
            self._need_more()
            await self._more()
        return self._take(0, size)

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        """Wait for one message: its type and body. Raises: see MessageStream."""
        while (message := self.take_message(limit)) is None:
            await self._more()
        return message

    async def _more(self) -> None:
        if self._lost is not None:
            raise ConnectionResetError("the connection was closed") from self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

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
            protocol.data_received(self._buffer[self._at :])
