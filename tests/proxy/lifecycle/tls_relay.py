"""A TLS end in front of a PostgreSQL that has none: answers SSLRequest, then passes on what is inside."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from types import TracebackType
from typing import Self

from tidegate_proxy.protocol import encode


class TLSRelay:
    """Listens on a loopback port for PostgreSQL clients that ask for TLS; forwards to `target_port` without it.

    - `port`: where to connect. `connections`: how many came; `handshakes`: how many succeeded.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self.port = 0
        self.connections = self.handshakes = 0
        self._target_port = target_port
        self._context = context
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        self._loop.close()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Called when TLS is up. Returns: what the target is to get first. Raises: EOFError to end the connection."""
        return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, EOFError):
            try:
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
            finally:
                writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise EOFError
