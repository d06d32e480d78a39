"""Many clients in one thread: they connect, log in, query and wait, at once."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Sequence
from typing import Any, Self, cast

from tidegate_load.bench.stage import DATABASE, USER, BenchError, Stage
from tidegate_load.bench.wire import SSL_REQUEST, TERMINATE, WireClient, query

CLIENT_TIMEOUT = 60.0
"""Seconds after which a client counts as failed."""

_CHECK = 0.2
_GOODBYE = 5.0  # seconds for closing in order, which TLS takes some for


class _Connection(asyncio.Protocol):
    """A socket with a WireClient; `wake` is resolved when the server is ready, or when there is no hope left."""

    def __init__(self, password: str, context: ssl.SSLContext | None) -> None:
        self.client = WireClient(password)
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._asked_for_tls = False
        self._transport: asyncio.Transport | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self.wake: asyncio.Future[None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.answered = 0.0

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that has not ended."""
        return self._transport is not None and not self.gone.done()

    def abort(self) -> None:
        """End it without a word."""
        if self._transport is not None and not self.gone.done():
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._context is not None and not self._asked_for_tls:
            self._asked_for_tls = True
            self._transport.write(SSL_REQUEST)
        elif self._context is None:
            self._transport.write(WireClient.startup(USER, DATABASE))

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._asked_for_tls and self._upgrade is None:
            if data != b"S":
                self._end("the server refused TLS")
                return
            self._upgrade = self._loop.create_task(self._start_tls())
            return
        client = self.client
        rows = client.rows
        if answer := client.feed(data):
            self._transport.write(answer)
        if rows == 0 and client.rows:
            self.answered = time.monotonic()
        if (client.ready or client.error) and not self.wake.done():
            self.wake.set_result(None)

    async def _start_tls(self) -> None:
        assert self._transport is not None
        assert self._context is not None
        try:
            transport = await self._loop.start_tls(self._transport, self, self._context)
        except OSError as error:
            self._end(f"TLS: {error}")
            return
        assert transport is not None
        self._transport = transport
        self._transport.write(WireClient.startup(USER, DATABASE))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        self._end(str(exc) if exc else "the server closed the connection")

    def _end(self, error: str) -> None:
        self.client.error = self.client.error or error
        if not self.wake.done():
            self.wake.set_result(None)

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self.client.ready = False
        self.client.rows = 0
        self.wake = self._loop.create_future()
        if self.client.error:
            self.wake.set_result(None)
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(TERMINATE)
            self._transport.close()


class Crowd:
    """Clients of one endpoint, all closed in the end. Used inside a running event loop.

    Parameters: `parameters` as for `psycopg.connect`: host, port and sslmode count; `count` of clients;
    `passwords`, one for each, if not all have the stage's.
    """

    def __init__(
        self, stage: Stage, parameters: dict[str, Any], count: int, passwords: Sequence[str] | None = None
    ) -> None:
        self._stage = stage
        self._passwords = [stage.password] * count if passwords is None else list(passwords)
        self._parameters = parameters
        self._count = count
        self._connections: list[_Connection] = []
        self._context: ssl.SSLContext | None = None
        if parameters.get("sslmode", "disable") != "disable":
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE  # as libpq's sslmode=require

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        waiting = [connection.gone for connection in self._connections if connection.is_open]
        if waiting:
            await asyncio.wait(waiting, timeout=_GOODBYE)
        for connection in self._connections:
            connection.abort()
        await asyncio.sleep(0)

    @property
    def errors(self) -> list[str]:
        """What went wrong, one text per client that failed."""
        return [each.client.error for each in self._connections if each.client.error]

    async def connect(self, at_once: int | None = None) -> None:
        """Connect and log in all clients; those that fail show in `errors`.

        Parameters: `at_once`, how many may be at it at a time; by default all. Raises: InterruptedRunError.
        """
        limit = asyncio.Semaphore(at_once or self._count)

        async def one(password: str) -> None:
            connection = _Connection(password, self._context)
            self._connections.append(connection)
            async with limit:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLIENT_TIMEOUT):
                        await self._open(connection)

        await self._all([one(password) for password in self._passwords])
        for connection in self._connections:
            if not connection.client.ready:
                connection.client.error = connection.client.error or f"not logged in within {CLIENT_TIMEOUT:.0f} s"

    async def _open(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection, self._parameters["host"], self._parameters["port"])
        except OSError as error:
            connection.client.error = str(error)
            return
        await connection.wake

    async def query(self, sql: str = "SELECT 1") -> list[float]:
        """Have every client run a query at once; when each got its first row, by `time.monotonic()`, in order.

        Clients that fail are left out, and show in `errors`. Raises: InterruptedRunError.
        """
        for connection in self._connections:
            connection.send(query(sql))
        await self._wait_for_rows()
        return sorted(each.answered for each in self._connections if not each.client.error)

    async def storm(self) -> list[float]:
        """Have every client connect, log in and run a query as soon as it can, all at once; returns as `query`."""

        async def one(password: str) -> None:
            connection = _Connection(password, self._context)
            self._connections.append(connection)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIENT_TIMEOUT):
                    await self._open(connection)
                    if not connection.client.error:
                        connection.send(query("SELECT 1"))
                        await connection.wake

        await self._all([one(password) for password in self._passwords])
        self._mark_unanswered()
        return sorted(each.answered for each in self._connections if not each.client.error)

    async def _wait_for_rows(self) -> None:
        async def one(connection: _Connection) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIENT_TIMEOUT):
                    await connection.wake

        await self._all([one(connection) for connection in self._connections])
        self._mark_unanswered()

    def _mark_unanswered(self) -> None:
        for connection in self._connections:
            if not (connection.client.ready and connection.client.rows):
                connection.client.error = connection.client.error or f"no row within {CLIENT_TIMEOUT:.0f} s"

    async def _all(self, work: Sequence[Any]) -> None:
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            pending: set[asyncio.Future[Any]] = set(tasks)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_CHECK)
                self._stage.interruption.check()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()


def need_no_errors(crowd: Crowd, what: str) -> None:
    """Raises: BenchError when a client failed."""
    if errors := crowd.errors:
        raise BenchError(f"{what}: {len(errors)} clients failed, the first with: {errors[0]}")
