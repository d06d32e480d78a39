"""One logged-in client: walks what it sends, borrows a server connection when a transaction begins, and fills it.

While the client holds no server connection, bytes are only held back; they are read once there is one, because what a
message becomes (a prepared statement's name, say) depends on the connection that takes it.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import TYPE_CHECKING, Protocol, cast

from tidegate_proxy.core.codes import FROM_CLIENT, MAX_SHORT_MESSAGE, OF_STATEMENT, SHORT
from tidegate_proxy.core.statements import NAME_PREFIX, CloseToken, ParseToken, Statement, intern_statement
from tidegate_proxy.core.suspect import suspicion
from tidegate_proxy.errors import ClientProtocolError, ProxyError, ShutdownError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import (
    BIND,
    CLOSE,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
)

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection

_length_at = Struct(">I").unpack_from
_pack_length = Struct(">I").pack

HOLD_LIMIT = 1 << 16
"""Bytes that are held for one client while it waits for a server connection or for the rest of a message."""

MAX_MESSAGE = (1 << 30) - 1
"""PostgreSQL's own limit on a message's length (MaxAllocSize)."""

_READY_IDLE = encode.ready_for_query(IDLE)
_EMPTY_STATEMENT = b"\0\0\0"
_CLOSE_NOTHING = encode.close_statement(NAME_PREFIX + b"none")

# Why a client is not read from: bits of one number.
_HOLDS_ENOUGH, _SERVER_FULL = 1, 2


def _parse_message(name: bytes, body: bytes) -> bytes:
    return b"P" + _pack_length(5 + len(name) + len(body)) + name + b"\0" + body


class ClientOwner(Protocol):
    """What a client connection asks of its pool."""

    def acquire(self, client: ClientConnection) -> ServerConnection | None:
        """A server connection now, or None: then `server_granted` or `borrow_failed` is called later."""

    def give_up(self, client: ClientConnection) -> None:
        """The client waits no longer."""

    def prefix(self, client: ClientConnection, server: ServerConnection) -> bytes:
        """What must be sent ahead of the client's first message to make the session the client's own."""

    def orphaned(self, server: ServerConnection, client: ClientConnection, mid_message: bool) -> None:
        """The client vanished while it held the server connection."""

    def pinned(self, client: ClientConnection, reason: str) -> None:
        """The client keeps its server connection from now on."""

    def client_lost(self, client: ClientConnection) -> None:
        """The client's connection has ended."""

    async def cancel(self, client: ClientConnection) -> None:
        """Do what a CancelRequest for this client asks."""


class ClientConnection(asyncio.Protocol):
    """A client connection after its login.

    Parameters
    - `owner`: its pool.
    - `pid`, `key`: what the client was told as its cancel key.
    - `session`: session parameters that the client asked for when it logged in, name to value.
    """

    def __init__(self, owner: ClientOwner, pid: int, key: bytes, session: dict[str, str]) -> None:
        self.owner = owner
        self.pid = pid
        self.key = key
        self.session = session
        self.transport = cast(asyncio.Transport, None)
        self.server: ServerConnection | None = None
        # Extended-protocol messages were sent since the last Sync.
        self.unsynced = False
        self.pin_reason: str | None = None
        # The client takes less than the server sends.
        self.write_blocked = False
        # Something was received since the last sweep.
        self.heard = True
        # Event-loop time of the last sweep that found something received.
        self.silent_since = 0.0
        self.waiting = False
        self.closing = False
        self._statements: dict[bytes, Statement] = {}
        self._unnamed: bytes | None = None
        self._unnamed_there = False
        self._draining = False
        self._blocked = False
        self._held = b""
        self._skip = 0
        self._reading_paused = 0
        # An error was answered in the midst of an extended request: the rest of it is dropped up to its Sync.
        self._discarding = False
        # The server connection was lost between two requests of a transaction: the next one fails with this.
        self._doom: ProxyError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, or by whoever hands over a transport after the login."""
        self.transport = cast(asyncio.Transport, transport)

    # What the client sends

    def data_received(self, data: bytes) -> None:
        """Take one chunk; called by the transport."""
        self.heard = True
        if self._held:
            data = self._held + data
            self._held = b""
        if self.waiting or self._blocked:
            self._hold(data)
        else:
            self._process(data)

    def _hold(self, data: bytes) -> None:
        self._held = data
        if len(data) >= HOLD_LIMIT:
            self._pause_reading(_HOLDS_ENOUGH)

    def _process(self, data: bytes, prefix: bytes = b"") -> None:
        """Walk the messages and send them on; `prefix` goes ahead of them."""
        size = len(data)
        # data[start:pos] is for the server and not sent yet; `out` goes before it.
        pos = start = 0
        out = [prefix] if prefix else []
        server = self.server
        if self._skip:
            pos = min(self._skip, size)
            self._skip -= pos
            if server is None:
                start = pos
        while size - pos >= 5:
            kind = data[pos]
            length = _length_at(data, pos + 1)[0]
            end = pos + 1 + length
            too_long = length > MAX_SHORT_MESSAGE and (length > MAX_MESSAGE or kind in SHORT)
            if too_long or length < 4 or kind not in FROM_CLIENT:
                self._send(server, out, data, start, pos)
                self._bad_message(kind, length)
                return
            if server is None:
                if self._discarding and kind not in (SYNC, TERMINATE):
                    pos = start = self._pass_over(end, size)
                    continue
                if kind in (COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH):
                    # Late data of a copy that has failed; PostgreSQL drops it too.
                    pos = start = self._pass_over(end, size)
                    continue
                if kind == TERMINATE:
                    self.close()
                    return
                if end > size and size - pos < HOLD_LIMIT:
                    break
                if kind == SYNC:
                    self._discarding = False
                    self.deliver(_READY_IDLE)
                    pos = start = end
                    continue
                if self._doom is not None:
                    error, self._doom = self._doom, None
                    self._refuse(data[pos:], error)
                    return
                server = self.owner.acquire(self)
                if server is None:
                    self.waiting = True
                    self._hold(data[pos:])
                    return
                prefix = self._take(server)
                if prefix:
                    out.append(prefix)
            if self.unsynced and (kind == QUERY or kind == FUNCTION_CALL):
                # If the request before it fails, PostgreSQL answers neither until a Sync, which nobody could foresee.
                self._send(server, out, data, start, pos)
                self.fail(ClientProtocolError("a query within an extended-protocol request, before its Sync"))
                return
            if kind == QUERY:
                if end > size and size - pos < HOLD_LIMIT:
                    break
                if self.pin_reason is None:
                    reason = suspicion(data[pos + 5 : end]) if end <= size else "long statement"
                    if reason is not None:
                        self._pin(reason)
                server.owed.append(QUERY)
                self._unnamed = None
                self.unsynced = False
            elif kind == SYNC:
                if end > size:
                    break
                if server.copy_in and COPY_DONE not in server.owed:
                    server.sync_ignored()
                else:
                    server.owed.append(SYNC)
                self.unsynced = False
            elif kind == PARSE or kind == BIND or kind == DESCRIBE or kind == CLOSE:
                if end > size and size - pos < HOLD_LIMIT:
                    break
                limit = min(end, size)
                try:
                    rewritten = self._rewrite(server, kind, data, pos, limit, end)
                except ClientProtocolError as error:
                    self._send(server, out, data, start, pos)
                    self.fail(error)
                    return
                self.unsynced = True
                if rewritten is not None:
                    out.append(data[start:pos])
                    out += rewritten
                    start = limit
            elif kind == EXECUTE:
                self.unsynced = True
            elif kind == FUNCTION_CALL:
                server.owed.append(FUNCTION_CALL)
                self.unsynced = False
            elif kind == COPY_DONE or kind == COPY_FAIL:
                # Outside of any request the server drops it without a word.
                if server.owed or self.unsynced:
                    server.owed.append(COPY_DONE)
            elif kind == FLUSH and length != 4:
                # PostgreSQL would now wait for a Sync, as after an error in a request.
                self._send(server, out, data, start, pos)
                self._bad_message(kind, length)
                return
            elif kind == TERMINATE:
                self._send(server, out, data, start, pos)
                self.close()
                return
            if end > size:
                self._skip = end - size
                pos = size
                break
            pos = end
        self._send(server, out, data, start, pos)
        if pos < size:
            self._hold(data[pos:])

    def _send(self, server: ServerConnection | None, out: list[bytes], data: bytes, start: int, pos: int) -> None:
        if start < pos:
            if not out:
                if server is not None:
                    server.transport.write(data if start == 0 and pos == len(data) else data[start:pos])
                return
            out.append(data[start:pos])
        if out and server is not None:
            server.transport.write(b"".join(out))

    def _pass_over(self, end: int, size: int) -> int:
        if end > size:
            self._skip = end - size
            return size
        return end

    def _bad_message(self, kind: int, length: int) -> None:
        if kind not in FROM_CLIENT:
            self.fail(ClientProtocolError(f"invalid frontend message type {kind}"))
        else:
            self.fail(ClientProtocolError(f"invalid message length {length} for message type 0x{kind:02X}"))

    # Prepared statements

    def _rewrite(
        self, server: ServerConnection, kind: int, data: bytes, pos: int, limit: int, end: int
    ) -> tuple[bytes, ...] | None:
        """What goes to the server in place of a message that names a statement, or None: as it is.

        Parameters: the message is `data[pos:end]`, of which `data[pos:limit]` is there.
        Raises: ClientProtocolError.
        """
        body = pos + 5
        if kind == PARSE:
            return self._parse(server, data, pos, limit, end)
        if kind == BIND:
            name_at = data.find(0, body, limit) + 1
            name_end = data.find(0, name_at, limit) if name_at else -1
        else:
            name_at = body + 1
            name_end = data.find(0, name_at, limit)
        if name_end < 0:
            raise ClientProtocolError("invalid string in message")
        if kind != BIND and data[body] != OF_STATEMENT:
            if kind == CLOSE:
                server.owed.append(CloseToken(b"", None))
            return None
        name = data[name_at:name_end]
        if kind == CLOSE:
            return self._close_statement(server, name)
        if not name:
            if self._unnamed_there or self._unnamed is None:
                return None
            # The unnamed statement of an earlier transaction, on another server connection.
            self._unnamed_there = True
            server.owed.append(ParseToken(None, None, True))
            return (_parse_message(b"", self._unnamed), data[pos:limit])
        statement = self._statements.get(name)
        if statement is None:
            return None
        renamed = statement.name
        message = (
            data[pos : pos + 1],
            _pack_length(end - pos - 1 + len(renamed) - len(name)),
            data[body:name_at],
            renamed,
            data[name_end:limit],
        )
        prepared = server.prepared
        known = prepared.pop(renamed, None) is not None
        prepared[renamed] = statement
        if known:
            return message
        server.owed.append(ParseToken(statement, None, True))
        return (_parse_message(renamed, statement.body), *message)

    def _parse(self, server: ServerConnection, data: bytes, pos: int, limit: int, end: int) -> tuple[bytes, ...] | None:
        name_end = data.find(0, pos + 5, limit)
        sql_end = data.find(0, name_end + 1, limit) if name_end >= 0 else -1
        if name_end < 0 or (sql_end < 0 and end == limit):
            raise ClientProtocolError("invalid string in message")
        name = data[pos + 5 : name_end]
        if end > limit:
            # Too long to be carried from server to server: it goes as it is, and the client stays with it.
            self._pin("long statement")
            server.owed.append(ParseToken(None, None, False))
            if name:
                server.stray_names.append(name)
            else:
                self._unnamed = None
            return None
        if self.pin_reason is None:
            reason = suspicion(data[name_end + 1 : sql_end])
            if reason is not None:
                self._pin(reason)
        body = data[name_end + 1 : end]
        if not name:
            self._unnamed = body
            self._unnamed_there = True
            server.owed.append(ParseToken(None, None, False))
            return None
        if name in self._statements:
            # The server itself shall say that the name is taken, under the name that the client knows.
            server.owed.append(ParseToken(None, None, True))
            server.owed.append(ParseToken(None, None, False))
            server.stray_names.append(name)
            taken = _parse_message(name, _EMPTY_STATEMENT)
            return (taken, taken)
        statement = intern_statement(body)
        self._statements[name] = statement
        if statement.name in server.prepared:
            # An empty statement draws the same ParseComplete and costs the server next to nothing.
            self._unnamed_there = False
            server.owed.append(ParseToken(None, name, False))
            return (_parse_message(b"", _EMPTY_STATEMENT),)
        server.prepared[statement.name] = statement
        server.owed.append(ParseToken(statement, name, False))
        return (_parse_message(statement.name, body),)

    def _close_statement(self, server: ServerConnection, name: bytes) -> tuple[bytes, ...] | None:
        statement = self._statements.pop(name, None) if name else None
        server.owed.append(CloseToken(name, statement))
        if not name:
            self._unnamed = None
        if statement is None:
            return None
        # It stays prepared on the server, for others and for later: closing what does not exist answers the same.
        return (_CLOSE_NOTHING,)

    def parse_failed(self, name: bytes) -> None:
        """A Parse of this client's was refused or skipped: the name does not exist."""
        self._statements.pop(name, None)

    def close_skipped(self, name: bytes, statement: Statement) -> None:
        """A Close was skipped after an error: the name still exists."""
        self._statements.setdefault(name, statement)

    def forget_statements(self) -> None:
        """DEALLOCATE ALL or DISCARD ALL was run."""
        self._statements.clear()

    # Holding a server connection

    def _take(self, server: ServerConnection) -> bytes:
        self.server = server
        server.client = self
        self._unnamed_there = False
        if self.write_blocked:
            server.transport.pause_reading()
        if server.write_blocked:
            self.server_full(True)
        return self.owner.prefix(self, server)

    def server_granted(self, server: ServerConnection) -> None:
        """The wait is over; called by the pool."""
        self.waiting = False
        prefix = self._take(server)
        self._proceed(prefix)

    def borrow_failed(self, error: ProxyError) -> None:
        """The wait was in vain: the request is answered with `error`, and the client may go on. Called by the pool."""
        self.waiting = False
        held, self._held = self._held, b""
        self._resume_reading(_HOLDS_ENOUGH)
        self._refuse(held, error)

    def cancel_wait(self, error: ProxyError) -> None:
        """Leave the queue, and answer the request with `error`."""
        self.owner.give_up(self)
        self.borrow_failed(error)

    def _refuse(self, data: bytes, error: ProxyError) -> None:
        """Answer the request at the beginning of `data` with an error, as a server would."""
        self.deliver(encode.error_response(error, fatal=False))
        if data[0] in (QUERY, FUNCTION_CALL):
            self.deliver(_READY_IDLE)
            end = 1 + _length_at(data, 1)[0]
            rest = self._pass_over(end, len(data))
            data = data[rest:]
        else:
            self._discarding = True
        if data:
            self._process(data)

    def _proceed(self, prefix: bytes = b"") -> None:
        held, self._held = self._held, b""
        self._resume_reading(_HOLDS_ENOUGH)
        if held or prefix:
            self._process(held, prefix)

    def block(self) -> None:
        """The proxy has a request of its own on this client's server connection: hold what the client sends."""
        self._blocked = True

    def unblock(self) -> None:
        """The proxy's own request is done."""
        if self._blocked:
            self._blocked = False
            self._proceed()

    @property
    def finished(self) -> bool:
        """Whether the client needs its server connection no longer, once that has answered everything."""
        return not self.unsynced and self._skip == 0 and self.pin_reason is None

    @property
    def mid_message(self) -> bool:
        """Whether the rest of a message is still to come that the server has already begun to get."""
        return self._skip > 0

    @property
    def held_back(self) -> bool:
        """Whether the client may be sending what is not read yet, because the server has to catch up first."""
        return self._reading_paused != 0

    def server_detached(self) -> None:
        """The server connection went back to the pool."""
        self.server = None
        self._resume_reading(_SERVER_FULL)
        if self._draining:
            self.shut_down()

    def _pin(self, reason: str) -> None:
        if self.pin_reason is None:
            self.pin_reason = reason
            self.owner.pinned(self, reason)

    def server_lost(self, error: ProxyError, requests: int, *, in_transaction: bool, mid_message: bool) -> None:
        """The server connection broke; `requests` were not answered. The client stays, if it can go on at all.

        Only what was in flight fails. A client in the midst of a message from the server cannot be told anything, and
        one that had pinned state on the connection must not go on as if it were still there.
        """
        self.server = None
        self._blocked = False
        self._unnamed_there = False
        self._resume_reading(_SERVER_FULL)
        if mid_message:
            self.transport.abort()
            return
        if self.pin_reason is not None or self._draining:
            self.fail(error)
            return
        answer = encode.error_response(error, fatal=False)
        if requests:
            self.deliver((answer + _READY_IDLE) * requests)
        if self.unsynced:
            self.unsynced = False
            self._discarding = True
            if not requests:
                self.deliver(answer)
        elif in_transaction and not requests:
            self._doom = error
        self._proceed()

    # What the client gets

    def deliver(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.transport.write(data)

    def pause_writing(self) -> None:
        """The client takes less than the server sends: read no more from the server."""
        self.write_blocked = True
        if self.server is not None:
            self.server.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.write_blocked = False
        if self.server is not None:
            self.server.transport.resume_reading()

    def server_full(self, full: bool) -> None:
        """The server connection takes less than the client sends, or has caught up."""
        if full:
            self._pause_reading(_SERVER_FULL)
        else:
            self._resume_reading(_SERVER_FULL)

    def _pause_reading(self, reason: int) -> None:
        if not self._reading_paused:
            self.transport.pause_reading()
        self._reading_paused |= reason

    def _resume_reading(self, reason: int) -> None:
        if self._reading_paused:
            self._reading_paused &= ~reason
            if not self._reading_paused:
                self.transport.resume_reading()

    # The end

    def fail(self, error: ProxyError) -> None:
        """Tell the client why, and close."""
        if not self.closing:
            self.deliver(encode.error_response(error, fatal=True))
            self.close()

    def close(self) -> None:
        """Close once everything has been sent to the client."""
        self.closing = True
        self.transport.close()
        self._let_go()

    def shut_down(self) -> None:
        """Close with 57P01 as soon as no transaction is under way."""
        self._draining = True
        server = self.server
        if server is None:
            at_rest = not self.waiting
        else:
            # Pinned, else it would not have one now.
            at_rest = server.status == IDLE and not server.owed and not self.unsynced and not self._skip
        if at_rest:
            self.end()

    def end(self) -> None:
        """Close with 57P01 now, whatever is under way."""
        self.fail(ShutdownError("terminating connection due to administrator command"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, with or without a goodbye."""
        self.closing = True
        self._let_go()
        self.owner.client_lost(self)

    def _let_go(self) -> None:
        """Give back whatever the client holds or waits for."""
        if self.waiting:
            self.waiting = False
            self.owner.give_up(self)
        server, self.server = self.server, None
        if server is not None:
            mid_message, self._skip = self._skip > 0, 0
            server.abandon()
            self.owner.orphaned(server, self, mid_message)
