"""One client of the admin console: simple queries in, tables of text out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from tidegate_proxy.console.show import SHOWS, Table
from tidegate_proxy.errors import ClientProtocolError, ProxyError, ShutdownError
from tidegate_proxy.protocol import encode, wire

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

DATABASE = "pgbouncer"
"""The console's database; the name that tools made for PgBouncer connect to."""

MAX_COMMAND = 1 << 16

_READY = encode.ready_for_query(wire.IDLE)


class Console(asyncio.Protocol):
    """A console connection after its login."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._transport = cast(asyncio.Transport, None)
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by whoever hands over the transport after the login."""
        self._transport = cast(asyncio.Transport, transport)
        self._proxy.consoles.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        self._proxy.consoles.discard(self)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self._buffer += data
        while len(self._buffer) >= 5 and not self._transport.is_closing():
            length = int.from_bytes(self._buffer[1:5], "big")
            if not 4 <= length <= MAX_COMMAND:
                self._end(ClientProtocolError(f"invalid message length {length}"))
                return
            if len(self._buffer) < length + 1:
                return
            kind, body = self._buffer[0], bytes(self._buffer[5 : length + 1])
            del self._buffer[: length + 1]
            self._message(kind, body)

    def _message(self, kind: int, body: bytes) -> None:
        if kind == wire.TERMINATE:
            self._transport.close()
        elif kind == wire.QUERY:
            self._transport.write(self._answer(body.rstrip(b"\0").decode(errors="replace")) + _READY)
        else:
            self._end(
                ClientProtocolError(
                    "the admin console takes simple queries only",
                    sqlstate="0A000",
                    hint="Use psql, or your driver's simple query mode.",
                )
            )

    def _answer(self, text: str) -> bytes:
        commands = [command.split() for command in text.split(";") if command.strip()]
        if not commands:
            return encode.message(wire.EMPTY_QUERY_RESPONSE)
        answer = b""
        for command in commands:
            try:
                answer += _table(self._run(command))
            except ProxyError as error:
                return answer + encode.error_response(error, fatal=False)
        return answer

    def _run(self, command: list[str]) -> Table:
        verb, *rest = (word.upper() for word in command)
        if verb != "SHOW" or len(rest) != 1 or rest[0] not in SHOWS:
            raise ClientProtocolError(
                f'invalid command "{" ".join(command)[:100]}"',
                sqlstate="42601",
                hint="The console knows " + ", ".join(f"SHOW {word}" for word in SHOWS) + ".",
            )
        return SHOWS[rest[0]](self._proxy)

    def end(self) -> None:
        """Close with 57P01."""
        self._end(ShutdownError())

    def _end(self, error: ProxyError) -> None:
        self._transport.write(encode.error_response(error, fatal=True))
        self._transport.close()


def _table(table: Table) -> bytes:
    rows = b"".join(encode.data_row(row) for row in table.rows)
    return encode.row_description(table.columns) + rows + encode.command_complete("SHOW")
