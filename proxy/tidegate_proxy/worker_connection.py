"""How one worker speaks to another: JSON objects in lines, after a greeting."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

GREETING = b"\n"
"""Tells that a worker is alive: while it is being started its supervisor keeps what comes."""

Message = dict[str, Any]


class WorkerConnection:
    """To one that has greeted. Parameters: its two streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @property
    def lost(self) -> bool:
        """Whether it is known to have ended."""
        return self._reader.at_eof()

    async def ask(self, message: Message) -> Message:
        """Send one message, and wait for the answer. Raises: OSError, IncompleteReadError, ValueError."""
        self._writer.write(json.dumps(message).encode() + b"\n")
        answer: Message = json.loads(await self._reader.readuntil())
        return answer


@contextlib.asynccontextmanager
async def connected(address: str, *, greets_within: float, longest: int) -> AsyncIterator[WorkerConnection]:
    """A connection to the worker at this address in the abstract namespace.

    Parameters: `greets_within`, seconds; `longest`, bytes of an answer.
    Raises: OSError, TimeoutError, IncompleteReadError.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        # The supervisor holds the address: this succeeds at once or not at all.
        connection.connect(f"\0{address}")
        reader, writer = await asyncio.open_unix_connection(sock=connection.dup(), limit=longest)
    try:
        async with asyncio.timeout(greets_within):
            await reader.readexactly(len(GREETING))
        yield WorkerConnection(reader, writer)
    finally:
        writer.transport.abort()
