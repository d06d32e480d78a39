"""One client of the admin console: simple queries in, tables of text out."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, cast

from tidegate_proxy import __version__
from tidegate_proxy.console import commands
from tidegate_proxy.console.parse import HINT, Command, parse
from tidegate_proxy.console.show import SHOWS
from tidegate_proxy.console.table import Table
from tidegate_proxy.errors import ClientProtocolError, ProxyError, ShutdownError
from tidegate_proxy.metrics.counts import CONSOLE
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.settings.errors import nearest

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

DATABASE = CONSOLE
"""The console's database; the name that tools made for PgBouncer connect to."""

MAX_COMMAND = 1 << 16
MAX_REQUESTS = 64
"""Commands that are read while one is at work. More are left to the kernel's buffers, and so to the client."""

PARAMETERS = {
    b"server_version": f"{__version__}/tidegate".encode(),
    b"client_encoding": b"UTF8",
    b"server_encoding": b"UTF8",
    b"DateStyle": b"ISO",
    b"TimeZone": b"GMT",
    b"standard_conforming_strings": b"on",
    b"is_superuser": b"on",
}
"""What drivers want to know of a server, as PgBouncer's console tells it."""

_OF_DRIVERS = frozenset(
    {"application_name", "client_encoding", "client_min_messages", "datestyle", "extra_float_digits", "timezone"}
)
"""What drivers set of their own accord. They mean their session with a server, and here there is none."""

_READY = encode.ready_for_query(wire.IDLE)


class _Extended(Enum):
    """What to do about a message of the extended protocol."""

    REQUEST = "refuse it"
    SYNC = "begin anew"


_EXTENDED = {
    wire.PARSE: _Extended.REQUEST,
    wire.BIND: _Extended.REQUEST,
    wire.DESCRIBE: _Extended.REQUEST,
    wire.EXECUTE: _Extended.REQUEST,
    wire.CLOSE: _Extended.REQUEST,
    wire.SYNC: _Extended.SYNC,
}
_IGNORED = frozenset({wire.FLUSH, wire.COPY_DATA, wire.COPY_DONE, wire.COPY_FAIL})
"""Errors are sent at once, and a COPY that was refused may still be on its way."""

_NO_EXTENDED_QUERIES = ClientProtocolError(
    "the admin console takes simple queries only",
    sqlstate="0A000",
    hint="Use psql, or your driver's simple query mode: preferQueryMode=simple (pgjdbc), psycopg.ClientCursor, "
    "QueryExecModeSimpleProtocol (pgx).",
)


class Console(asyncio.Protocol):
    """A console connection after its login.

    Parameters: `user`, who it is; `may_change`, whether it may do more than SHOW; `application_name`, as it said.
    """

    def __init__(self, proxy: Proxy, user: str, *, may_change: bool, application_name: str = "") -> None:
        self.user = user
        self.application_name = application_name
        self.connected = self.asked = time.monotonic()
        self.transport = cast(asyncio.Transport, None)
        self._proxy = proxy
        self._may_change = may_change
        self._buffer = bytearray()
        self._requests: deque[str | _Extended] = deque()
        self._skipping = False
        self._reads = True
        # Unless the client takes less than it is sent.
        self._takes = asyncio.Event()
        self._takes.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by whoever hands over the transport after the login."""
        self.transport = cast(asyncio.Transport, transport)
        self._proxy.consoles.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport. What was asked to happen happens; what only waits for it does not go on."""
        self._proxy.consoles.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._buffer += data
        self._parse()

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._takes.clear()
        self._read_or_wait()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._takes.set()
        self._read_or_wait()

    def _read_or_wait(self) -> None:
        reads = self._takes.is_set() and len(self._requests) < MAX_REQUESTS
        if reads != self._reads and not self.transport.is_closing():
            self._reads = reads
            if reads:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _parse(self) -> None:
        while len(self._buffer) >= 5 and len(self._requests) < MAX_REQUESTS and not self.transport.is_closing():
            length = int.from_bytes(self._buffer[1:5], "big")
            if not 4 <= length <= MAX_COMMAND:
                self._end(ClientProtocolError(f"invalid message length {length}"))
                return
            if len(self._buffer) < length + 1:
                break
            kind, body = self._buffer[0], bytes(self._buffer[5 : length + 1])
            del self._buffer[: length + 1]
            self._message(kind, body)
        self._read_or_wait()

    def _message(self, kind: int, body: bytes) -> None:
        if kind == wire.TERMINATE:
            self.transport.close()
        elif kind == wire.QUERY:
            self.asked = time.monotonic()
            self._proxy.counts.console += 1
            self._asked(body.rstrip(b"\0").decode(errors="replace"))
        elif kind in _EXTENDED:
            self._asked(_EXTENDED[kind])
        elif kind not in _IGNORED:
            # Nobody knows where its next message begins.
            self._end(ClientProtocolError(f"invalid frontend message type {kind}"))

    def _asked(self, request: str | _Extended) -> None:
        self._requests.append(request)
        if self._task is None:
            # One after the other: some commands wait.
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        try:
            while self._requests and not self.transport.is_closing():
                request = self._requests.popleft()
                self._parse()
                if isinstance(request, str):
                    await self._answer(request)
                    self.transport.write(_READY)
                else:
                    self._refuse(request)
        finally:
            self._task = None

    def _refuse(self, request: _Extended) -> None:
        """As PostgreSQL does after an error: what follows is skipped up to a Sync, which is answered."""
        if request is _Extended.SYNC:
            self._skipping = False
            self.transport.write(_READY)
        elif request is _Extended.REQUEST and not self._skipping:
            self._skipping = True
            self.transport.write(encode.error_response(_NO_EXTENDED_QUERIES, fatal=False))

    async def _answer(self, text: str) -> None:
        try:
            parsed = parse(text)
            for command in parsed:
                # No more than one table stands for a client that does not take it.
                await self._takes.wait()
                self.transport.write(await self._run(command))
        except ProxyError as error:
            self.transport.write(encode.error_response(error, fatal=False))
        else:
            if not parsed:
                self.transport.write(encode.message(wire.EMPTY_QUERY_RESPONSE))

    async def _run(self, command: Command) -> bytes:
        if command.verb == "SHOW":
            table, missing = await self._show(command)
            return b"".join(map(encode.warning, missing)) + _encoded(table)
        if command.verb != "SET" or len(command.arguments) == 0 or command.arguments[0].lower() not in _OF_DRIVERS:
            await commands.run(self._proxy, self.user, command, may_change=self._may_change)
        elif command.arguments[0].lower() == "application_name":
            self.application_name = command.arguments[-1]
        return encode.command_complete(command.verb)

    async def _show(self, command: Command) -> tuple[Table, list[str]]:
        word = " ".join(command.arguments).upper()
        if word not in SHOWS:
            advice = nearest(word, SHOWS)
            hint = f"{advice[0].upper()}{advice[1:]} {HINT}" if advice.startswith("did") else HINT
            raise ClientProtocolError(f'invalid command "{command}"', sqlstate="42601", hint=hint)
        return await self._proxy.siblings.show(word, SHOWS[word])

    def end(self) -> None:
        """Close with 57P01."""
        self._end(ShutdownError())

    def _end(self, error: ProxyError) -> None:
        self.transport.write(encode.error_response(error, fatal=True))
        self.transport.close()


def _encoded(table: Table) -> bytes:
    rows = b"".join(encode.data_row([None if value is None else str(value) for value in row]) for row in table.rows)
    return encode.row_description(table.columns) + rows + encode.command_complete("SHOW")
