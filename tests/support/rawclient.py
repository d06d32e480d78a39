"""A PostgreSQL client without a driver: logs in, then sends and receives single messages, bytes and all."""

from __future__ import annotations

import socket
import struct
from typing import Any, Self

from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import parse_error_fields
from tidegate_proxy.protocol.scram_client import ScramClientExchange


class RawClient:
    """One connection to a server or a proxy.

    Parameters: `parameters`, as for `psycopg.connect`; `login`, False to send every byte oneself; `source`, the address
    that the connection comes from.
    """

    def __init__(
        self,
        parameters: dict[str, Any],
        *,
        login: bool = True,
        timeout: float = 60.0,
        source: str | None = None,
        **startup: str,
    ) -> None:
        self.parameters = parameters
        self.socket = socket.create_connection(
            (parameters["host"], parameters["port"]),
            timeout=timeout,
            source_address=(source, 0) if source is not None else None,
        )
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reported: dict[bytes, bytes] = {}
        self.pid = 0
        self.key = b""
        self._buffer = b""
        if login:
            try:
                self.log_in(**startup)
            except BaseException:
                # Left to the collector, it would fail whatever test runs then.
                self.socket.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def read_exactly(self, size: int) -> bytes:
        """Read `size` bytes; EOFError when the connection ends before."""
        while len(self._buffer) < size:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the connection was closed")
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read(self) -> tuple[str, bytes]:
        """Read one message: its type as a letter, and its body."""
        header = self.read_exactly(5)
        (length,) = struct.unpack_from("!i", header, 1)
        return chr(header[0]), self.read_exactly(length - 4)

    def read_until(self, kind: str = "Z") -> list[tuple[str, bytes]]:
        """Read messages up to and including one of this type."""
        messages = [self.read()]
        while messages[-1][0] != kind:
            messages.append(self.read())
        return messages

    def kinds_until(self, kind: str = "Z") -> str:
        """The same, but only the types, as one word."""
        return "".join(letter for letter, _ in self.read_until(kind))

    def error_until(self, kind: str = "Z") -> dict[str, str]:
        """Read up to a message of this type and return the fields of the error among them."""
        return next(parse_error_fields(body) for letter, body in self.read_until(kind) if letter == "E")

    def query(self, sql: str) -> list[tuple[str, bytes]]:
        """Run a simple query and return everything up to ReadyForQuery."""
        self.send(encode.query(sql))
        return self.read_until()

    def is_closed(self) -> bool:
        """Read to the end of the connection; whatever came before it is dropped."""
        try:
            while True:
                self.read()
        except (EOFError, ConnectionError):
            return True

    def log_in(self, **startup: str) -> None:
        """Send a StartupMessage with these parameters, and authenticate by SCRAM."""
        identity = {"user": self.parameters["user"], "database": self.parameters["dbname"]}
        self.send(encode.startup_message(identity | startup))
        exchange = ScramClientExchange(self.parameters["password"], [MECHANISM], None)
        while True:
            kind, body = self.read()
            assert kind != "E", parse_error_fields(body)
            if kind == "R":
                code = struct.unpack_from("!i", body)[0]
                if code == wire.AUTH_SASL:
                    mechanism, data = exchange.first()
                    self.send(encode.sasl_initial_response(mechanism, data))
                elif code == wire.AUTH_SASL_CONTINUE:
                    self.send(encode.sasl_response(exchange.response(body[4:])))
                elif code == wire.AUTH_SASL_FINAL:
                    exchange.verify(body[4:])
            elif kind == "S":
                name, value, _ = body.split(b"\0")
                self.reported[name] = value
            elif kind == "K":
                self.pid, self.key = struct.unpack_from("!i", body)[0], body[4:]
            elif kind == "Z":
                return


MECHANISM = "SCRAM-SHA-256"


def bind(portal: bytes = b"", statement: bytes = b"", *values: bytes) -> bytes:
    """Bind with text parameters."""
    parameters = b"".join(struct.pack("!i", len(value)) + value for value in values)
    return encode.message(
        wire.BIND, portal + b"\0" + statement + b"\0\0\0" + struct.pack("!h", len(values)) + parameters + b"\0\0"
    )


def execute(portal: bytes = b"", rows: int = 0) -> bytes:
    """Execute, at most `rows` rows."""
    return encode.message(wire.EXECUTE, portal + b"\0" + struct.pack("!i", rows))


def describe(kind: bytes, name: bytes) -> bytes:
    """Describe a statement (b"S") or a portal (b"P")."""
    return encode.message(wire.DESCRIBE, kind + name + b"\0")


def parse(name: bytes, sql: bytes) -> bytes:
    """Parse without parameter types."""
    return encode.parse(name, sql, b"\0\0")
