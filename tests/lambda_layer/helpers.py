"""What the layer's tests share: a Lambda context, databases made with short words, sockets that never answer."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import psycopg
from psycopg.rows import TupleRow
from tests.support.postgres import Database

import tidegate


class Context:
    """As much of Lambda's context object as the layer looks at, counting down from `seconds`."""

    def __init__(self, seconds: float = 60.0, request_id: str | None = None) -> None:
        if request_id is not None:
            self.aws_request_id = request_id
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end - time.monotonic()) * 1000))


def plain_connection(database: Database, **keywords: Any) -> psycopg.Connection[TupleRow]:
    """psycopg alone, as the database's owner."""
    parameters: dict[str, Any] = {**database.parameters, **keywords}
    return psycopg.connect(**parameters)


@contextlib.contextmanager
def connected(database: Database, **keywords: Any) -> Iterator[tidegate.Database]:
    """The layer, connected to a test's database without TLS unless told otherwise."""
    settings = {**database.parameters, "sslmode": "disable", **keywords}
    db = tidegate.connect(**settings)
    try:
        yield db
    finally:
        db.close()


PATIENT = {"margin": 2.0}
"""Keywords for `connected` where a test sees that something ended before the invocation did: a busy machine may take
that long to get from the layer's deadline to the test's next line."""


def backend_of(db: tidegate.Database) -> int:
    """Process id of the server process that serves the layer's connection now."""
    with db.connection() as conn:
        return conn.info.backend_pid


def readable(conn: psycopg.Connection[Any]) -> bool:
    """Wait until something has arrived on an idle connection's socket; False if nothing does in a minute."""
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLIN)
    return bool(poller.poll(60_000))


def terminate(database: Database, pid: int) -> None:
    """End a server process as an administrator does, and wait until it is gone."""
    with database.server.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port where connections are accepted by the kernel and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port whose backlog is full, so that further connection attempts get no answer at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.3)
            try:
                filler.connect(address)
            except TimeoutError:
                break
        yield address[1]


class _Listening:
    """A loopback listener with threads that serve its connections; all of them end with the `with` block.

    - `port`: where clients connect.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        raise NotImplementedError


class TlsFront(_Listening):
    """Speaks TLS to clients, as a server with a certificate does, and passes the rest on to one that has no TLS.

    PostgreSQL from the wheel is built without TLS.

    - `port`: where clients connect. `attempts`: TLS negotiations begun.
    """

    def __init__(self, context: ssl.SSLContext, target_port: int) -> None:
        super().__init__(target_port)
        self.attempts = 0
        self._context = context

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, plain: socket.socket) -> None:
        self._sockets.append(plain)
        assert plain.recv(8, socket.MSG_WAITALL) == struct.pack("!ii", 8, 80877103), "no SSLRequest"
        self.attempts += 1
        plain.sendall(b"S")
        # Memory BIOs: one thread may then read the socket while the other one writes to it.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)
        lock = threading.Lock()
        with contextlib.suppress(OSError):
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(_some(plain))
                else:
                    plain.sendall(outgoing.read())
                    break
            server = socket.create_connection(("127.0.0.1", self._target_port))
            self._sockets.append(server)
            self._start(self._to_client, server, plain, tls, outgoing, lock)
            with contextlib.suppress(ssl.SSLWantReadError):
                server.sendall(tls.read(65536))
            while True:
                incoming.write(_some(plain))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while True:
                        with lock:
                            data = tls.read(65536)
                        server.sendall(data)

    def _to_client(
        self,
        server: socket.socket,
        plain: socket.socket,
        tls: ssl.SSLObject,
        outgoing: ssl.MemoryBIO,
        lock: threading.Lock,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                with lock:
                    tls.write(data)
                    encrypted = outgoing.read()
                plain.sendall(encrypted)
            plain.shutdown(socket.SHUT_RDWR)


GERMAN = {
    b"28P01": "Passwort-Authentifizierung für Benutzer »orders« fehlgeschlagen",
    b"3D000": "Datenbank »no_such_database« existiert nicht",
    b"53300": "die verbleibenden Verbindungen sind für Superuser reserviert",
}
"""What a server with `lc_messages = 'de_DE.UTF-8'` says, by SQLSTATE; during a login in ASCII alone."""


class Translator(_Listening):
    """Passes everything on between clients and a server, whose errors come out in German.

    PostgreSQL from the wheel is built without translations.

    - `port`: where clients connect. `accepted`: connections so far.
    """

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self.accepted = 0

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self.accepted += 1
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._sockets += [client, server]
                self._start(self._pass_on, client, server)
                self._start(self._translate, server, client)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _translate(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while header := server.recv(5, socket.MSG_WAITALL):
                size = struct.unpack("!i", header[1:])[0] - 4
                body = server.recv(size, socket.MSG_WAITALL) if size else b""
                if header[:1] == b"E":
                    body = _in_german(body)
                client.sendall(header[:1] + struct.pack("!i", len(body) + 4) + body)
            client.shutdown(socket.SHUT_RDWR)


def _in_german(error: bytes) -> bytes:
    fields = {field[:1]: field[1:] for field in error.split(b"\0") if field}
    if text := GERMAN.get(fields[b"C"]):
        fields[b"M"] = text.encode("ascii", "replace")
    return b"".join(kind + value + b"\0" for kind, value in fields.items()) + b"\0"


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("the other side closed")
    return data
