"""A light PostgreSQL client for hundreds of connections in one process: simple queries on asyncio streams."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any, Self

from tests.support.rawclient import MECHANISM

from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import parse_error_fields
from tidegate_proxy.protocol.scram_client import ScramClientExchange


@dataclass(frozen=True)
class Answer:
    """What came of a query: the last command tag, or the first error's fields."""

    tag: str = ""
    error: dict[str, str] | None = None

    @property
    def sqlstate(self) -> str:
        """Of the error, empty where there was none."""
        return self.error.get("C", "") if self.error is not None else ""


class AsyncClient:
    """A connection after its login. Raises ConnectionError (asyncio.IncompleteReadError is an EOFError) when it
    ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, parameters: dict[str, Any]) -> Self:
        """Log in by SCRAM. Parameters: as for `psycopg.connect`. Raises: PermissionError with the server's error."""
        reader, writer = await asyncio.open_connection(parameters["host"], parameters["port"])
        client = cls(reader, writer)
        try:
            await client._log_in(parameters)
        except BaseException:
            client.close()
            raise
        return client

    async def _read(self) -> tuple[str, bytes]:
        kind, length = struct.unpack("!ci", await self._reader.readexactly(5))
        return kind.decode(), await self._reader.readexactly(length - 4)

    async def _log_in(self, parameters: dict[str, Any]) -> None:
        self._writer.write(encode.startup_message({"user": parameters["user"], "database": parameters["dbname"]}))
        exchange = ScramClientExchange(parameters["password"], [MECHANISM], None)
        while True:
            kind, body = await self._read()
            if kind == "E":
                raise PermissionError(parse_error_fields(body)["M"])
            if kind == "Z":
                return
            code = struct.unpack_from("!i", body)[0] if kind == "R" else -1
            if code == wire.AUTH_SASL:
                mechanism, data = exchange.first()
                self._writer.write(encode.sasl_initial_response(mechanism, data))
            elif code == wire.AUTH_SASL_CONTINUE:
                self._writer.write(encode.sasl_response(exchange.response(body[4:])))

    async def query(self, sql: str) -> Answer:
        """Run a simple query."""
        self._writer.write(encode.query(sql))
        answer = Answer()
        while True:
            kind, body = await self._read()
            if kind == "C" and answer.error is None:
                answer = Answer(body[:-1].decode())
            elif kind == "E" and answer.error is None:
                answer = Answer(error=parse_error_fields(body))
            elif kind == "Z":
                return answer

    def close(self) -> None:
        """Close without a goodbye."""
        self._writer.transport.abort()
