"""Streams for testing conversations: scripted, two sides against each other, and a real socket."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from tidegate_proxy.errors import ClientProtocolError, ProxyError

T = TypeVar("T")

SOCKET_TIMEOUT = 20.0
"""Seconds after which a real peer that says nothing is given up."""


def run(conversation: Coroutine[Any, Any, T]) -> T:
    """Run a conversation whose stream never really waits."""
    try:
        conversation.send(None)
    except StopIteration as finished:
        value: T = finished.value
        return value
    conversation.close()
    raise AssertionError("the conversation waits for something")


def frames(data: bytes) -> list[bytes]:
    """The whole messages in `data`, each with its header."""
    found = []
    while data:
        (length,) = struct.unpack_from("!i", data, 1)
        found.append(data[: length + 1])
        data = data[length + 1 :]
    return found


class ScriptedStream:
    """Reads what it was given, records what is written; then the connection is reset."""

    def __init__(self, *messages: bytes, secure: bool = False, channel_binding: bytes | None = None) -> None:
        self.secure = secure
        self.channel_binding = channel_binding
        self.input = b"".join(messages)
        self.written = b""
        self.fault: type[ProxyError] = ClientProtocolError

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        if len(self.input) < 5:
            raise ConnectionResetError("the script is at its end")
        kind, length = struct.unpack_from("!Bi", self.input)
        if not 4 <= length <= limit + 4:
            raise self.fault(f"invalid message length {length}")
        if len(self.input) < length + 1:
            raise ConnectionResetError("the script ends within a message")
        body, self.input = self.input[5 : length + 1], self.input[length + 1 :]
        return kind, body

    def write(self, data: bytes) -> None:
        self.written += data


class _Turn:
    """Awaited by one side to let the other one move."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class DuplexStream(ScriptedStream):
    """One of two sides: what one writes, the other reads, after `change` has had its way with it."""

    peer: DuplexStream
    gone = False
    idle = False

    def __init__(self, *, channel_binding: bytes | None = None) -> None:
        super().__init__(secure=channel_binding is not None, channel_binding=channel_binding)
        self.change: Callable[[int, bytes], bytes] = lambda number, message: message
        self.sent = 0

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        while not self._complete() and not self.peer.gone:
            await _Turn()
        return await super().read_message(limit)

    def _complete(self) -> bool:
        return len(self.input) >= 5 and len(self.input) > struct.unpack_from("!i", self.input, 1)[0]

    def write(self, data: bytes) -> None:
        if data[:1] == b"\0":
            return  # a startup packet, which is nobody's business here
        for message in frames(data):
            self.written += message
            self.peer.input += self.change(self.sent, message)
            self.sent += 1


def converse(
    left: tuple[DuplexStream, Coroutine[Any, Any, Any]], right: tuple[DuplexStream, Coroutine[Any, Any, Any]]
) -> tuple[object, object]:
    """Run two sides until both are done; returns what each returned or raised."""
    results: dict[int, object] = {}
    sides = (left, right)
    while len(results) < 2:
        for index, (stream, conversation) in enumerate(sides):
            if index in results:
                continue
            before = (left[0].sent, right[0].sent)
            try:
                conversation.send(None)
            except StopIteration as finished:
                results[index] = finished.value
                stream.gone = True
            except (ProxyError, ConnectionError) as error:
                results[index] = error
                stream.gone = True
            else:
                # It waits although nothing was sent: the other one may be stuck too.
                stream.idle = before == (left[0].sent, right[0].sent)
        if all(stream.idle for stream, _ in sides):
            for stream, _ in sides:
                stream.gone = True
    return results[0], results[1]


class SocketStream:
    """A blocking socket, plain or TLS."""

    def __init__(self, sock: socket.socket, *, channel_binding: bytes | None = None) -> None:
        sock.settimeout(SOCKET_TIMEOUT)
        self.sock = sock
        self.secure = isinstance(sock, ssl.SSLSocket)
        self.channel_binding = channel_binding

    @classmethod
    def connect(cls, host: str, port: int) -> SocketStream:
        return cls(socket.create_connection((host, port), timeout=SOCKET_TIMEOUT))

    def read_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise ConnectionResetError("the peer closed the connection")
            data += more
        return data

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        kind, length = struct.unpack("!Bi", self.read_exactly(5))
        if not 4 <= length <= limit + 4:
            raise ClientProtocolError(f"invalid message length {length}")
        return kind, self.read_exactly(length - 4)

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self.sock.close()


def end_point(certificate: bytes) -> bytes:
    """`tls-server-end-point` data for a certificate in DER whose signature uses SHA-256."""
    return hashlib.sha256(certificate).digest()
