"""CancelRequests that reach another member than the one whose client they mean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.startup import CancelRequest, parse_startup

logger = logging.getLogger(__name__)

WITHIN = 5.0
"""Seconds that one may take on its way."""

AT_ONCE = 64
"""Most that are under way from or to this member; what is more is dropped, as a request may be at any time."""

_LONGEST = 12 + 256  # "CancelRequest" in the PostgreSQL manual's message formats: the key has at most 256 bytes


class CancelPort:
    """Takes CancelRequests from other members, and nothing else; none is passed on again.

    Parameters: `cancel`, does what one asks.
    """

    def __init__(self, cancel: Callable[[int, bytes], Awaitable[object]]) -> None:
        self._cancel = cancel
        self._server: asyncio.Server | None = None
        self._under_way = 0

    async def listen(self, host: str, port: int) -> int:
        """Returns: the port. Raises: OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_LONGEST)
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._under_way += 1
        try:
            if self._under_way <= AT_ONCE:
                async with asyncio.timeout(WITHIN):
                    length = int.from_bytes(await reader.readexactly(4), "big")
                    if 12 < length <= _LONGEST:
                        packet = parse_startup(await reader.readexactly(length - 4))
                        if isinstance(packet, CancelRequest):
                            await self._cancel(packet.pid, packet.key)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ClientProtocolError) as error:
            logger.debug("a cancel request from another member failed: %s", error)
        finally:
            self._under_way -= 1
            writer.transport.abort()

    def close(self) -> None:
        """Take no more."""
        if self._server is not None:
            self._server.close()


async def pass_on(pid: int, key: bytes, addresses: Iterable[tuple[str, int]]) -> None:
    """Send a CancelRequest to these members, and wait until they have done what it asks."""
    await asyncio.gather(*(_send(pid, key, host, port) for host, port in addresses))


async def _send(pid: int, key: bytes, host: str, port: int) -> None:
    try:
        async with asyncio.timeout(WITHIN):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(encode.cancel_request(pid, key))
                with contextlib.suppress(ConnectionResetError):
                    await reader.read(1)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        logger.warning("a cancel request could not be passed on to the member at %s port %d: %s", host, port, error)
