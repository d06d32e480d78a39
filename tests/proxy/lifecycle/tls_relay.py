"""A TLS end in front of a PostgreSQL that has none: answers SSLRequest, then passes on what is inside."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from tidegate_load.loop_thread import LoopThread
from tidegate_proxy.protocol import encode


class TLSRelay(LoopThread):
    """Listens on a loopback port for PostgreSQL clients that ask for TLS; forwards to `target_port` without it.

    - `port`: where to connect. `connections`: how many came; `handshakes`: how many succeeded.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        super().__init__()
        self.port = 0
        self.connections = self.handshakes = 0
        self._target_port = target_port
        self._context = context

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """See LoopThread."""
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            # Not by the task itself: one that is cancelled before its first step does nothing.
            task.add_done_callback(lambda _: writer.transport.abort())

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield
        # Whoever has just been accepted still gets a task, for which the loop needs a server that is not closed.
        asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        server.close()

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Called when TLS is up. Returns: what the target is to get first. Raises: EOFError to end the connection."""
        return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, EOFError):
            if await reader.readexactly(8) != encode.ssl_request():
                return
            writer.write(b"S")
            await writer.start_tls(self._context)
            self.handshakes += 1
            first = await self.admit(reader, writer)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            inner_writer.write(first)
            try:
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
            finally:
                inner_writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise EOFError
