"""One logged-in connection to PostgreSQL: walks what the server sends, passes it to the client that holds it.

Messages are forwarded as they came, in whole chunks; only the few kinds that say something about the connection's
state are read. `owed` is the queue of what the server has yet to answer, in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

from tidegate_proxy.core.codes import FORWARDED, FROM_SERVER, UNKNOWN
from tidegate_proxy.core.statements import CloseToken, InternalQuery, ParseToken, Statement
from tidegate_proxy.errors import ProxyError, ServerProtocolError, TargetUnavailableError
from tidegate_proxy.protocol import decode, encode
from tidegate_proxy.protocol.rows import parse_data_row
from tidegate_proxy.protocol.wire import (
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DONE,
    COPY_IN_RESPONSE,
    DATA_ROW,
    EMPTY_QUERY_RESPONSE,
    ERROR_RESPONSE,
    IDLE,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    QUERY,
    READY_FOR_QUERY,
    SYNC,
)

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection

_length_at = Struct(">I").unpack_from

MAX_WHOLE_MESSAGE = 1 << 16
"""Bytes of a server message up to which it is waited for and read whole; longer ones are passed on as they come."""

Owed: TypeAlias = deque[int | ParseToken | CloseToken | InternalQuery]


class ServerOwner(Protocol):
    """What a server connection tells to the pool that owns it."""

    def server_released(self, server: ServerConnection) -> None:
        """The transaction is over and the client needs the connection no longer."""

    def server_lost(self, server: ServerConnection) -> None:
        """The connection is gone, whatever the reason."""


class ServerConnection(asyncio.Protocol):
    """A server connection after its login, owned by a pool, held by at most one client at a time.

    Parameters
    - `owner`: the pool.
    - `pid`, `key`: the server process and its cancel key.
    - `created`: event-loop time in seconds when it was opened.
    """

    def __init__(self, owner: ServerOwner, pid: int, key: bytes, created: float) -> None:
        self.owner = owner
        self.pid = pid
        self.key = key
        self.created = created
        self.idle_since = created
        self.transport = cast(asyncio.Transport, None)
        self.client: ClientConnection | None = None
        self.owed: Owed = deque()
        self.status = IDLE
        # True from CopyInResponse until the copy's end or error.
        self.copy_in = False
        self.write_blocked = False
        # Cancel requests under way: until they end, the connection must not serve anybody else.
        self.cancels = 0
        # What is prepared here, least recently used first.
        self.prepared: dict[bytes, Statement] = {}
        # Statements under a client's own name, left by an error; closed before the next client.
        self.stray_names: list[bytes] = []
        # Session parameters that the proxy has set here, beside the server's own defaults.
        self.applied: dict[str, str] = {}
        # The latest ParameterStatus of each parameter.
        self.reported: dict[bytes, bytes] = {}
        # Why the connection is ending, once that is known.
        self.fatal: ProxyError | None = None
        self.closing = False
        self._tail = b""
        self._skip = 0
        self._internal = False
        self._copy_syncs_dropped = False
        # The server may owe one ReadyForQuery more than `owed` says; settled by `settle` before anyone else is served.
        self.uncertain = False
        # 0: no; 1: our empty query is sent; 2: it is answered, and its ReadyForQuery comes next.
        self._settling = 0
        self._waiters: list[asyncio.Future[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, or by whoever hands over a transport after the login."""
        self.transport = cast(asyncio.Transport, transport)

    # What the server sends

    def data_received(self, data: bytes) -> None:
        """Walk the messages in one chunk and forward them; called by the transport."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        size = len(data)
        # data[start:pos] is for the client and not delivered yet.
        pos = start = 0
        if self._skip:
            if self._skip >= size:
                self._skip -= size
                self._deliver(data)
                return
            pos = self._skip
            self._skip = 0
        owed = self.owed
        while size - pos >= 5:
            kind = data[pos]
            length = _length_at(data, pos + 1)[0]
            end = pos + 1 + length
            action = FROM_SERVER[kind]
            if action == FORWARDED and not self._internal and not self._settling and (owed or self.client is not None):
                if end > size:
                    self._skip = end - size
                    pos = size
                    break
                pos = end
                continue
            if action == UNKNOWN or length < 4:
                self._violation(kind)
                return
            if end > size:
                if length <= MAX_WHOLE_MESSAGE or self._internal:
                    break
                self._read(kind, b"")
                if self.closing:
                    return
                self._skip = end - size
                pos = size
                break
            body = data[pos + 5 : end]
            if kind == READY_FOR_QUERY:
                if length != 5:
                    self._violation(kind)
                    return
                # Everything up to here must be with the client before the connection may go to another one.
                if not self._internal and self._settling != 2:
                    self._deliver(data if start == 0 and end == size else data[start:end])
                elif start < pos:
                    self._deliver(data[start:pos])
                pos = start = end
                self.status = body[0]
                self._ready()
            elif self._internal:
                self._read_internal(kind, body)
                pos = start = end
            elif self._read(kind, body):
                pos = end
            else:
                if start < pos:
                    self._deliver(data[start:pos])
                pos = start = end
            if self.closing:
                return
        if start < pos:
            self._deliver(data if start == 0 and pos == size else data[start:pos])
        if pos < size:
            self._tail = data[pos:]

    def _deliver(self, data: bytes) -> None:
        # Without a client this is the answer to somebody who has vanished.
        if self.client is not None:
            self.client.deliver(data)

    def _read(self, kind: int, body: bytes) -> bool:
        """Read a message that says something about the connection. False when the client must not see it.

        `body` is empty for one that is too long to be waited for.
        """
        if kind == COMMAND_COMPLETE:
            if body in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
                self.prepared.clear()
                if self.client is not None:
                    self.client.forget_statements()
        elif kind == PARSE_COMPLETE:
            token = self._next_owed()
            if not isinstance(token, ParseToken):
                self._violation(kind)
            elif token.swallow:
                return False
        elif kind == CLOSE_COMPLETE:
            if not isinstance(self._next_owed(), CloseToken):
                self._violation(kind)
        elif kind == ERROR_RESPONSE:
            return self._read_error(body)
        elif kind == COPY_IN_RESPONSE:
            self._copy_in_begins()
        elif kind == EMPTY_QUERY_RESPONSE and self._settling:
            self._settling = 2
            return False
        elif kind == PARAMETER_STATUS and body:
            self._read_parameter(body)
        elif FROM_SERVER[kind] == FORWARDED and not self.owed and self.client is None and not self.uncertain:
            self._violation(kind)
        # Notices, notifications and parameters outside a request come unasked; a connection that nobody holds has
        # nobody to tell.
        return True

    def _next_owed(self) -> int | ParseToken | CloseToken | InternalQuery | None:
        owed = self.owed
        while owed and owed[0] == COPY_DONE:
            owed.popleft()
        return owed.popleft() if owed and isinstance(owed[0], (ParseToken, CloseToken)) else None

    def _read_error(self, body: bytes) -> bool:
        """An ErrorResponse. One that ends the connection is kept: the client hears of it in our words."""
        if self.copy_in:
            self.copy_in = False
            # Which Sync the server goes on from depends on how far it had read.
            self.uncertain = self.uncertain or self._copy_syncs_dropped
        # Severity comes first, translated and then plain; nothing else needs the whole body.
        if b"VFATAL\0" in body[:80] or b"VPANIC\0" in body[:80]:
            self.fatal = decode.error_from_fields(decode.parse_error_fields(body))
            return False
        if not self.owed and self.client is None and not self.uncertain:
            self._violation(ERROR_RESPONSE)
        return True

    def _copy_in_begins(self) -> None:
        """While the server reads COPY data it ignores Sync, also one that was sent before the client could know."""
        self.copy_in = True
        before = list(self.owed)
        self.owed.clear()
        while before and before[0] == COPY_DONE:
            before.pop(0)
        extended = bool(before) and before[0] == SYNC
        if not extended and before:
            self.owed.append(before.pop(0))
        while before and before[0] != COPY_DONE:
            token = before.pop(0)
            if token == SYNC:
                self._copy_syncs_dropped = True
            else:
                # A request in the midst of a copy makes the server give the copy up.
                self.uncertain = True
                self.owed.append(token)
        self.owed.extend(before)
        if self.client is None:
            self.transport.write(encode.copy_fail("the client is gone"))
            self.uncertain = True
        elif extended and SYNC not in before:
            self.client.unsynced = True

    def sync_ignored(self) -> None:
        """The client sent a Sync in the midst of its COPY data."""
        self.uncertain = True

    def _ready(self) -> None:
        """ReadyForQuery: take from the queue what it answers. What the server skipped after an error never happened."""
        owed = self.owed
        self.copy_in = False
        if self._settling == 1:
            return
        answered = self.uncertain
        while owed:
            token = owed.popleft()
            if isinstance(token, ParseToken):
                if token.statement is not None:
                    self.prepared.pop(token.statement.name, None)
                if token.client_name is not None and self.client is not None:
                    self.client.parse_failed(token.client_name)
            elif isinstance(token, CloseToken):
                if self.client is not None and token.statement is not None:
                    self.client.close_skipped(token.client_name, token.statement)
            elif isinstance(token, InternalQuery):
                answered = True
                self._internal = bool(owed) and isinstance(owed[0], InternalQuery)
                token.answered(token)
                break
            elif token != COPY_DONE:
                answered = True
                break
        while owed and owed[0] == COPY_DONE:
            owed.popleft()
        if not answered:
            self._violation(READY_FOR_QUERY)
        elif not owed:
            self._all_answered()

    def _all_answered(self) -> None:
        self._copy_syncs_dropped = False
        if self._settling:
            self._settling = 0
            self.uncertain = False
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        if self.uncertain and self.client is not None and not self.client.unsynced:
            self.settle()
        else:
            self.release_if_done()

    def settle(self) -> None:
        """Ask an empty query: whatever comes before its answer belongs to the client, and after it nothing is owed."""
        self._settling = 1
        if self.client is not None:
            self.client.block()
        self.owed.append(QUERY)
        self.transport.write(encode.query(b""))

    # Holding and releasing

    @property
    def reusable(self) -> bool:
        """The one test whether this connection may serve somebody else now."""
        return (
            self.status == IDLE
            and not self.owed
            and not self._skip
            and not self.uncertain
            and self.cancels == 0
            and self.fatal is None
            and not self.closing
        )

    @property
    def answering(self) -> bool:
        """Whether the server has all it needs to answer. It may keep a ParseComplete to itself until a Sync."""
        return any(isinstance(token, (int, InternalQuery)) and token != COPY_DONE for token in self.owed)

    def release_if_done(self) -> None:
        """Give the connection back to its pool if its client does not need it any longer."""
        client = self.client
        if client is None or not client.finished or not self.reusable:
            return
        self.client = None
        if client.write_blocked:
            self.transport.resume_reading()
        client.server_detached()
        self.owner.server_released(self)
        client.unblock()

    def abandon(self) -> None:
        """The client has vanished: what still comes is for nobody."""
        client = self.client
        self.client = None
        if client is not None and client.write_blocked:
            self.transport.resume_reading()

    # Requests of the proxy's own

    def begin_internal(self, answered: Callable[[InternalQuery], None]) -> None:
        """Expect the answer, up to one ReadyForQuery, to messages of ours. Nothing of a client's may be owed."""
        self.owed.append(InternalQuery(answered))
        self._internal = True

    async def run(self, sql: str) -> InternalQuery:
        """Run a query of the proxy's own and return what came of it, an error included.

        Raises: ProxyError if the connection is lost meanwhile.
        """
        results: list[InternalQuery] = []
        self.begin_internal(results.append)
        self.transport.write(encode.query(sql))
        await self.all_answered()
        return results[0]

    async def all_answered(self) -> None:
        """Wait until nothing is owed. Raises: ProxyError if the connection is lost meanwhile."""
        if self.closing:
            raise self.fatal or TargetUnavailableError("server closed the connection unexpectedly")
        if self.owed:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _read_internal(self, kind: int, body: bytes) -> None:
        query = self.owed[0]
        assert isinstance(query, InternalQuery)
        if kind == DATA_ROW:
            try:
                query.rows.append(parse_data_row(body))
            except ServerProtocolError as error:
                self.fail(error)
        elif kind == PARAMETER_STATUS:
            self._read_parameter(body)
        elif kind == ERROR_RESPONSE and self._read_error(body) and query.error is None:
            query.error = decode.parse_error_fields(body)

    def _read_parameter(self, body: bytes) -> None:
        try:
            name, value = decode.parse_parameter_status(body)
        except ServerProtocolError as error:
            self.fail(error)
        else:
            self.reported[name] = value

    # The transport

    def _violation(self, kind: int) -> None:
        self.fail(ServerProtocolError(f"unexpected message type 0x{kind:02X} from the server"))

    def fail(self, error: ProxyError) -> None:
        """Close at once, without a goodbye; a client that waits for an answer gets `error`."""
        if self.fatal is None:
            self.fatal = error
        self.closing = True
        self.transport.abort()

    def close(self) -> None:
        """Close politely; for a connection that nobody holds."""
        self.closing = True
        self.transport.write(encode.terminate())
        self.transport.close()

    def pause_writing(self) -> None:
        """The server takes less than the client sends: read no more from the client."""
        self.write_blocked = True
        if self.client is not None:
            self.client.server_full(True)

    def resume_writing(self) -> None:
        """The server has caught up."""
        self.write_blocked = False
        if self.client is not None:
            self.client.server_full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: whoever waits for it learns why."""
        self.closing = True
        error = self.fatal or TargetUnavailableError("server closed the connection unexpectedly")
        self.fatal = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()
        client = self.client
        self.client = None
        self.owner.server_lost(self)
        if client is not None:
            requests = sum(1 for token in self.owed if isinstance(token, int) and token != COPY_DONE)
            client.server_lost(error, requests, in_transaction=self.status != IDLE, mid_message=self._skip > 0)
