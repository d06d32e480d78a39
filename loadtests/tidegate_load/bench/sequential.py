"""One client that sends one query after the other and nothing that a query does not need: blocking, and predictable."""

from __future__ import annotations

import itertools
import socket
import struct
from types import TracebackType
from typing import Any, Final, Self

from tidegate_load.bench.stage import BenchError
from tidegate_load.bench.wire import TERMINATE, WireClient, message, query

SCENARIOS: Final = ("simple", "extended", "prepared")
"""As pgbench names them: one Query message; Parse, Bind, Describe, Execute and Sync; the same without Parse."""

_TIMEOUT = 60.0
_STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = "
_ACCOUNTS = 10_000, 99_999
"""All with the same number of digits, so that queries have the same length."""

_RECEIVE = 1 << 16


class SequentialClient:
    """A session on pgbench's tables, there while entered.

    Parameters: `parameters` as for `psycopg.connect`, without TLS; `scenario`, one of SCENARIOS.
    Raises: BenchError from entering and from `run`, when the server or the proxy refuses something or goes away.
    """

    def __init__(self, parameters: dict[str, Any], scenario: str) -> None:
        self._parameters = parameters
        self._scenario = scenario
        self._client = WireClient(parameters["password"])
        self._accounts = itertools.cycle(range(*_ACCOUNTS))
        self._socket: socket.socket

    def __enter__(self) -> Self:
        address = (self._parameters["host"], self._parameters["port"])
        try:
            self._socket = socket.create_connection(address, timeout=_TIMEOUT)
        except OSError as error:
            raise BenchError(f"no connection to port {address[1]}: {error}") from None
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._exchange(WireClient.startup(self._parameters["user"], self._parameters["dbname"]))
            if self._scenario == "prepared":
                self._exchange(_parse(b"account") + message(b"S", b""))
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._socket.sendall(TERMINATE)
        self._socket.close()

    def run(self, count: int) -> int:
        """Send so many queries, each when the one before is answered; returns how many rows came."""
        rows = 0
        for account in itertools.islice(self._accounts, count):
            self._client.rows = 0
            self._exchange(self._messages(account))
            rows += self._client.rows
        return rows

    def _messages(self, account: int) -> bytes:
        if self._scenario == "simple":
            return query(f"{_STATEMENT}{account}")
        if self._scenario == "extended":
            return _parse(b"") + _execute(b"", account)
        return _execute(b"account", account)

    def _exchange(self, data: bytes) -> None:
        client = self._client
        client.ready = False
        try:
            self._socket.sendall(data)
            while not client.ready:
                received = self._socket.recv(_RECEIVE)
                if not received or client.error:
                    raise BenchError(f"a {self._scenario} query failed: {client.error or 'the connection was closed'}")
                if answer := client.feed(received):
                    self._socket.sendall(answer)
        except OSError as error:
            raise BenchError(f"a {self._scenario} query failed: {error}") from None
        if client.error:
            raise BenchError(f"a {self._scenario} query failed: {client.error}")


def _parse(name: bytes) -> bytes:
    return message(b"P", name + b"\0" + _STATEMENT.encode() + b"$1\0" + struct.pack("!h", 0))


def _execute(name: bytes, account: int) -> bytes:
    value = str(account).encode()
    bind = b"\0" + name + b"\0" + struct.pack("!hhi", 0, 1, len(value)) + value + struct.pack("!h", 0)
    return (
        message(b"B", bind) + message(b"D", b"P\0") + message(b"E", b"\0" + struct.pack("!i", 0)) + message(b"S", b"")
    )
