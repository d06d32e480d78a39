"""One logged-in client: walks what it sends, borrows a server connection when a transaction begins, and fills it.

While the client holds no server connection, bytes are only held back; they are read once there is one, because what a
message becomes (a prepared statement's name, say) depends on the connection that takes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from tidegate_proxy.core.codes import (
    BEGINS,
    COPY_DONE_IN_REQUEST,
    FROM_CLIENT,
    MAX_SHORT_MESSAGE,
    NAMES_STATEMENT,
    QUERY_AFTER_EXTENDED,
    SHORT,
)
from tidegate_proxy.core.connection import Connection
from tidegate_proxy.core.deadline import cut_comment, set_by
from tidegate_proxy.core.look import Scanner as _Scanner
from tidegate_proxy.core.prepared import ClientStatements
from tidegate_proxy.core.session import Session
from tidegate_proxy.core.statements import AnswersFirst, ignored
from tidegate_proxy.core.statistics import Statistics
from tidegate_proxy.core.suspect import is_suspect
from tidegate_proxy.core.watch import SessionWatch
from tidegate_proxy.errors import ClientProtocolError, DeadlineError, ProxyError, ShutdownError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import (
    BIND,
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    IN_FAILED_TRANSACTION,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
)

if TYPE_CHECKING:
    from tidegate_proxy.core.owners import ClientOwner
    from tidegate_proxy.core.server import ServerConnection

HOLD_LIMIT = 1 << 16
"""Bytes that are held for one client while it waits for a server connection or for the rest of a message."""

CARRY_LIMIT = 1 << 20
"""Length of a message that names a statement, and of a statement that is carried from server to server."""

MAX_SPLICED = 1 << 10
"""Bytes of a chunk up to which it is copied as a whole when one of its messages is replaced."""

MAX_MESSAGE = (1 << 30) - 1
"""PostgreSQL's own limit on a message's length (MaxAllocSize)."""

_READY_IDLE = encode.ready_for_query(IDLE)
_SET = encode.command_complete("SET")
_READY_FAILED = encode.ready_for_query(IN_FAILED_TRANSACTION)
_ROLLED_BACK = encode.command_complete("ROLLBACK") + _READY_IDLE
_FAILED_TRANSACTION = encode.query("BEGIN;SELECT pg_catalog.current_setting('tidegate.transaction_was_lost')")
"""It leaves the server in a failed transaction, for a client that has lost its own: what the client still sends for
that one fails, in whatever form, until it ends it."""
_ENDS = re.compile(
    rb"\s*(?:(?P<rollback>ROLLBACK|ABORT)|COMMIT|END)(?:\s+(?:WORK|TRANSACTION))?\s*;?\s*\0", re.IGNORECASE
)
_scanner = _Scanner()
# Why a client is not read from: bits of one number.
_HOLDS_ENOUGH, _SERVER_FULL = 1, 2


class ClientConnection(Connection):
    """A client connection after its login.

    Parameters
    - `owner`: its pool.
    - `pid`, `key`: what the client was told as its cancel key.
    - `session`: what the client carries with it.
    - `told`: the ParameterStatus of each parameter that it got at its login.
    - `statistics`: where what it does is counted, together with others.
    - `keeps_server`: session pooling, the server connection is the client's until it goes.
    - `single_statements`: statement pooling, no transaction may stay open after a request.
    """

    def __init__(
        self,
        owner: ClientOwner,
        pid: int,
        key: bytes,
        session: Session,
        told: Mapping[bytes, bytes],
        statistics: Statistics,
        *,
        keeps_server: bool = False,
        single_statements: bool = False,
    ) -> None:
        self.owner = owner
        self.pid = pid
        self.key = key
        self.session = session
        # Shared with other clients of the same session parameters: replaced, never changed.
        self.told = told
        self.statistics = statistics
        # Event-loop times: of its login, of its latest request (0: none yet), and since when it waits (0: not at all).
        self.connected = statistics.clock.read()
        self.asked = 0.0
        self.waiting_since = 0.0
        # What it has begun to ask, until that is answered, if anybody wants to know.
        self.asks: bytes | None = None
        self.keeps_server = keeps_server
        self.single_statements = single_statements
        self.transport = cast(asyncio.Transport, None)
        self.server: ServerConnection | None = None
        # Extended-protocol messages were sent since the last Sync.
        self.unsynced = False
        # Bind, Describe or Execute, whose answers nobody here counts, were sent in the request that is not ended yet.
        self.behind_others = False
        # The client takes less than the server sends.
        self.write_blocked = False
        # Something was received since the last sweep.
        self.heard = True
        # Event-loop time of the last sweep that found something received.
        self.silent_since = 0.0
        self.waiting = False
        # The client has said goodbye.
        self.terminated = False
        self.closing = False
        self.watch = SessionWatch(self, session)
        self.statements = ClientStatements(self.watch, statistics)
        self.draining = False
        self._blocked = False
        # What was sent may free the name of a statement: whatever uses names next comes after the answer.
        self.awaits_answers = False
        # It is held back for that reason.
        self.waits_for_answers = False
        # A portal was bound since the last Sync: it would not survive one.
        self._bound = False
        # What was received and not read yet, and the size from which on that is worth another try.
        self._held: bytes | bytearray = b""
        self._needed = 0
        self._skip = 0
        # That much of a message is still to come; the server has not got, and shall not get, any of it.
        self._drops = False
        self._reading_paused = 0
        # An error was answered in the midst of an extended request: the rest of it is dropped up to its Sync.
        self._discarding = False
        # The timer of the transaction's deadline, if the client has set one.
        self.deadline: asyncio.TimerHandle | None = None
        # What the client calls the request that its transaction is for, if it says so.
        self.request_id: bytes | None = None
        # The server connection was lost in an open transaction, which the client has not ended yet.
        self._lost_transaction = False
        # It was lost between two requests of a transaction: the next one fails with this.
        self._doom: ProxyError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, or by whoever hands over a transport after the login."""
        self.transport = cast(asyncio.Transport, transport)

    def eof_received(self) -> None:
        """Nothing more comes: the transport closes, and what is free meanwhile is for others."""
        if self.waiting:
            self.waiting = False
            self.owner.give_up(self)

    # What the client sends

    def data_received(self, data: bytes) -> None:
        """Take one chunk; called by the transport."""
        self.heard = True
        self.statistics.received += len(data)
        if self._held:
            self._append(data)
            if len(self._held) < self._needed:
                return
            data = self._whole_held()
            self._held = b""
            self._needed = 0
        if self.waiting or self._blocked:
            self._hold(data)
        else:
            self._process(data)

    def _append(self, data: bytes) -> None:
        if not self._held:
            self._held = data
            return
        # What comes in many small pieces is copied once, not once for each.
        if isinstance(self._held, bytes):
            self._held = bytearray(self._held)
        self._held += data

    def _hold(self, data: bytes) -> None:
        self._append(data)
        if len(data) >= HOLD_LIMIT:
            self._pause_reading(_HOLDS_ENOUGH)

    def _whole_held(self) -> bytes:
        return self._held if isinstance(self._held, bytes) else bytes(self._held)

    def _take_held(self) -> bytes:
        held = self._whole_held()
        self._held = b""
        self._needed = 0
        self._resume_reading(_HOLDS_ENOUGH)
        return held

    def _process(self, data: bytes, prefix: bytes = b"") -> None:
        """Walk the messages and send them on; `prefix` goes ahead of them."""
        size = len(data)
        # data[start:pos] is for the server and not sent yet; `out` goes before it.
        pos = start = 0
        out: list[bytes] | None = [prefix] if prefix else None
        server = self.server
        if server is not None and server.asked == 0:
            server.asked = self.asked = self.statistics.clock.read()
            if server.began == 0:
                server.began = server.asked
                self.request_id = None
        if self.statistics.keeps_requests and self.asks is None:
            self.asks = data
        was_mid_message = self._skip > 0
        if self._skip:
            pos = min(self._skip, size)
            self._skip -= pos
            if self.watch.in_long_query:
                self.watch.long_query(data[:pos])
                if not self._skip:
                    self.watch.end_long_query()
            if server is None or self._drops:
                start = pos
                self._drops = self._drops and self._skip > 0
            elif server.probe_due and not self._skip:
                self._send(server, out, data, start, pos)
                server.probe()
                self._hold(data[pos:])
                return
        while size - pos >= 5:
            kind = data[pos]
            high = data[pos + 1] << 8 | data[pos + 2]
            length = high << 16 | data[pos + 3] << 8 | data[pos + 4]
            end = pos + 1 + length
            traits = FROM_CLIENT[kind]
            if (
                traits == 0
                or length < 4
                or (length > MAX_SHORT_MESSAGE and (length > MAX_MESSAGE or traits & SHORT != 0))
            ):
                self._send(server, out, data, start, pos)
                self._bad_message(kind, length)
                return
            if self._discarding:
                if kind not in (SYNC, TERMINATE):
                    self._send(server, out, data, start, pos)
                    out = None
                    pos = start = self._pass_over(end, size)
                    continue
                self._discarding = False
            # The last letter of a comment, or of SET: most texts have neither there.
            if (
                kind == QUERY
                and end <= size
                and length > 9
                and (data[end - 2] == 47 or (length < 80 and data[pos + 7] | 32 == 116))
            ):
                if data[end - 2] == 47:
                    data = self._without_deadline(data, pos, end)
                    end -= size - len(data)
                    size = len(data)
                elif (seconds := set_by(data[pos + 5 : end - 1])) is not None:
                    if server is None:
                        ready = _READY_FAILED if self._lost_transaction else _READY_IDLE
                    elif self.unsynced or server.copy_in:
                        ready = b""  # PostgreSQL's own answer: it may pass over it, or give up the copy
                    elif server.owed:
                        self._wait_for_answers(server, out, data, start, pos)
                        return
                    else:
                        ready = encode.ready_for_query(server.status)
                    if ready:
                        self._send(server, out, data, start, pos)
                        out = None
                        self.owner.set_deadline(self, seconds)
                        self.deliver(_SET + ready)
                        pos = start = end
                        continue
            elif kind == PARSE and end <= size and length > 11 and data[end - 4] == 47:
                data = self._without_deadline(data, pos, end)
                end -= size - len(data)
                size = len(data)
            if server is None:
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
                    self._bound = self.behind_others = False
                    self.deliver(_READY_FAILED if self._lost_transaction else _READY_IDLE)
                    pos = start = end
                    continue
                if self._lost_transaction:
                    error, self._doom = self._doom, None
                    ends = _ENDS.fullmatch(data, pos + 5, end) if kind == QUERY else None
                    if ends is not None:
                        self._lost_transaction = False
                        if error is None or (isinstance(error, DeadlineError) and ends["rollback"]):
                            # It has been rolled back, which is all that is asked for.
                            self.deliver(_ROLLED_BACK)
                            pos = start = end
                            continue
                    if error is not None:
                        self._refuse(data[pos:], error)
                        return
                server = self.owner.take()
                if server is None:
                    now = self.statistics.clock.read()
                    if not self.owner.joins_queue(self, now):
                        server = self.owner.acquire(self)
                if server is None:
                    self.waiting = True
                    self.asked = self.waiting_since = now
                    self._hold(data if pos == 0 else data[pos:])
                    return
                prefix = self._take(server)
                if prefix:
                    out = [prefix]
            if self.awaits_answers and not self.unsynced and traits & BEGINS:
                if server.owed:
                    self._wait_for_answers(server, out, data, start, pos)
                    return
                self.awaits_answers = bool(self.watch.restoring)
            if kind == QUERY:
                if end > size and size - pos < HOLD_LIMIT:
                    break
                self.statements.query_sent()
                server.request += 1
                if end > size:
                    try:
                        ahead = self.watch.sequences.taken(server)
                    except AnswersFirst:
                        server.counted += 1  # it will come again
                        self._wait_for_answers(server, out, data, start, pos)
                        return
                    if ahead:
                        out = [*(out or ()), data[start:pos], ahead]
                        start = pos
                    self.watch.long_query(data[pos + 5 :])
                    server.owed.append(self.simple(QUERY))
                elif (
                    not self.keeps_server
                    and not _scanner.looks_plain(data, pos + 5, end - 1)
                    and is_suspect(data[pos + 5 : end - 1])
                ):
                    sent: list[bytes] = []
                    try:
                        self.watch.query(server, data[pos:end], data[pos + 5 : end - 1], self.statements, sent)
                    except AnswersFirst:
                        server.counted += 1  # it will come again
                        self._wait_for_answers(server, out, data, start, pos)
                        return
                    except ClientProtocolError as error:
                        self._send(server, out, data, start, pos)
                        self.fail(error)
                        return
                    out = [*(out or ()), data[start:pos], *sent]
                    start = end
                else:
                    server.owed.append(self.simple(QUERY))
                self.unsynced = self._bound = self.behind_others = False
            elif kind == SYNC:
                if end > size:
                    break
                if server.copy_in and not server.copy_is_ended:
                    server.sync_ignored()
                else:
                    server.owed.append(SYNC)
                server.request += 1
                self.unsynced = self._bound = self.behind_others = False
            elif traits & NAMES_STATEMENT:
                if end > size and length <= CARRY_LIMIT:
                    self._needed = end - pos
                    break
                limit = min(end, size)
                try:
                    rewritten = self.statements.rewrite(server, kind, data, pos, limit, end)
                except ClientProtocolError as error:
                    self._send(server, out, data, start, pos)
                    self.fail(error)
                    return
                except AnswersFirst:
                    self._wait_for_answers(server, out, data, start, pos)
                    return
                self.unsynced = True
                if kind == BIND:
                    self._bound = self.behind_others = True
                elif kind == DESCRIBE:
                    self.behind_others = True
                if rewritten is not None and size <= MAX_SPLICED and end <= size:
                    data = _scanner.spliced(data, pos, end, rewritten)
                    end = pos + len(rewritten)
                    size = len(data)
                elif rewritten is not None:
                    if out is None:
                        out = []
                    out += (data[start:pos], rewritten)
                    start = limit
            elif kind == EXECUTE:
                self.unsynced = self.behind_others = True
                server.executes += 1
            elif kind == FUNCTION_CALL:
                try:
                    ahead = self.watch.sequences.taken(server)
                except AnswersFirst:
                    self._wait_for_answers(server, out, data, start, pos)
                    return
                if ahead:
                    out = [*(out or ()), data[start:pos], ahead]
                    start = pos
                server.owed.append(self.simple(FUNCTION_CALL))
                server.request += 1
                self.watch.function_call(data[pos + 5 : pos + 9])
                self.unsynced = self._bound = self.behind_others = False
            elif kind in (COPY_DONE, COPY_FAIL):
                # Outside of any request the server drops it without a word.
                if self.unsynced:
                    server.owed.append(COPY_DONE_IN_REQUEST)
                elif server.owed:
                    server.owed.append(COPY_DONE)
            elif kind == FLUSH and length != 4:
                # PostgreSQL would now wait for a Sync, as after an error in a request.
                self._send(server, out, data, start, pos)
                self._bad_message(kind, length)
                return
            elif kind == FLUSH and self._only_prepares and server.can_end_preparing:
                self._end_preparing(server, out, data, start, pos)
                self._hold(data[end:])
                return
            elif kind == FLUSH:
                server.flushed = server.executes
            elif kind == TERMINATE:
                # PostgreSQL finishes what was sent before it.
                self._send(server, out, data, start, pos)
                self.terminated = True
                self.close()
                return
            if end > size:
                self._skip = end - size
                pos = size
                break
            pos = end
        self._send(server, out, data, start, pos)
        if pos < size:
            self._append(data[pos:])
        if was_mid_message and not self._skip and server is not None and server is self.server:
            # The answer to everything may have come before the end of the last message: data of a copy that failed.
            server.look_again()

    def _send(
        self, server: ServerConnection | None, out: list[bytes] | None, data: bytes, start: int, pos: int
    ) -> None:
        if server is None:
            return
        if out:
            out.append(data[start:pos])
            server.transport.write(b"".join(out))
        elif start < pos:
            server.transport.write(data if start == 0 and pos == len(data) else data[start:pos])

    def _without_deadline(self, data: bytes, pos: int, end: int) -> bytes:
        found = cut_comment(data[pos:end])
        if found is None:
            return data
        message, seconds, self.request_id = found
        self.owner.set_deadline(self, seconds)
        return data[:pos] + message + data[end:]

    def forget_deadline(self) -> None:
        """The transaction that it was for is over."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def simple(self, kind: int) -> int:
        """What is owed for a Query or FunctionCall that is sent now."""
        if not self.unsynced:
            return kind
        # What comes behind it is held until it is known whether the server has passed over it.
        self.awaits_answers = True
        return QUERY_AFTER_EXTENDED

    def passed_over(self) -> None:
        """The server passes over everything up to a Sync that the client has not sent yet."""
        self._discarding = True

    @property
    def _only_prepares(self) -> bool:
        """Whether nothing but prepared statements was asked for since the last Sync."""
        return self.unsynced and not (self._bound or self.keeps_server or self.draining) and not self.session.pins

    def _end_preparing(
        self, server: ServerConnection, out: list[bytes] | None, data: bytes, start: int, pos: int
    ) -> None:
        """A Flush after statements were only prepared: end the request there, by a Sync of ours.

        Whoever prepares first and executes later (asyncpg does) would keep a server connection in the meantime, during
        which nothing of a transaction exists yet. What follows is held until it is known whether there was an error.
        """
        self._send(server, [*(out or ()), data[start:pos], encode.sync()], b"", 0, 0)
        server.owed.append(FLUSH)
        server.ends_preparing = True
        server.request += 1
        server.counted += 1  # the client's own Sync is still to come
        self.block()

    def prepared(self, *, failed: bool) -> None:
        """The server has answered everything before the Flush; after an error, the rest of the request is dropped."""
        self.unsynced = self.behind_others = False
        self._discarding = failed

    def _wait_for_answers(
        self, server: ServerConnection, out: list[bytes] | None, data: bytes, start: int, pos: int
    ) -> None:
        """Send what is before `pos`, and hold the rest until the server has answered a request."""
        self._send(server, out, data, start, pos)
        self.waits_for_answers = self._blocked = True
        self._hold(data[pos:])

    def _pass_over(self, end: int, size: int) -> int:
        if end > size:
            self._skip = end - size
            self._drops = True
            return size
        return end

    def _bad_message(self, kind: int, length: int) -> None:
        if FROM_CLIENT[kind] == 0:
            self.fail(ClientProtocolError(f"invalid frontend message type {kind}"))
        else:
            self.fail(ClientProtocolError(f"invalid message length {length} for message type 0x{kind:02X}"))

    # Holding a server connection

    def _take(self, server: ServerConnection) -> bytes:
        self.server = server
        server.client = self
        self._begin(server)
        self.statements.unnamed_there = False
        if self.write_blocked:
            server.transport.pause_reading()
        if server.write_blocked:
            self.server_full(True)
        prefix = b"" if self.owner.is_ready_for(server, self) else self.owner.prefix(self, server)
        if self._lost_transaction:
            self._lost_transaction = False
            server.begin_internal(ignored)
            prefix += _FAILED_TRANSACTION
        return prefix

    def _begin(self, server: ServerConnection) -> None:
        """A transaction begins on this server connection, now."""
        statistics = self.statistics
        server.asked = server.began = statistics.clock.read()
        server.waited = 0
        server.counted = server.request
        statistics.assignments += 1
        if self.waiting_since == 0:
            self.asked = server.asked
        else:
            server.waited = server.asked - self.waiting_since
            self.waiting_since = 0
            statistics.wait_ended(server.waited)

    def server_granted(self, server: ServerConnection) -> None:
        """The wait is over; called by the pool."""
        self.waiting = False
        prefix = self._take(server)
        self._proceed(prefix)

    def borrow_failed(self, error: ProxyError) -> None:
        """The wait was in vain: the request is answered with `error`, and the client may go on. Called by the pool."""
        self.waiting = False
        self.forget_deadline()
        self.request_id = None
        self.waiting_since = 0
        held = self._take_held()
        self._refuse(held, error)

    def cancel_wait(self, error: ProxyError) -> None:
        """Leave the queue, and answer the request with `error`."""
        self.owner.give_up(self)
        self.borrow_failed(error)

    def _refuse(self, data: bytes, error: ProxyError) -> None:
        """Answer the request at the beginning of `data` with an error, as a server would."""
        self.deliver(encode.error_response(error, fatal=False))
        if data[0] in (QUERY, FUNCTION_CALL):
            self.deliver(_READY_FAILED if self._lost_transaction else _READY_IDLE)
            end = 1 + int.from_bytes(data[1:5], "big")
            rest = self._pass_over(end, len(data))
            data = data[rest:]
        else:
            self._discarding = True
        if data:
            self._process(data)

    def _proceed(self, prefix: bytes = b"") -> None:
        held = self._take_held()
        if held or prefix:
            self._process(held, prefix)

    def block(self) -> None:
        """The proxy has a request of its own on this client's server connection: hold what the client sends."""
        self._blocked = True

    def unblock(self) -> None:
        """The proxy's own request is done."""
        if self._blocked:
            self.waits_for_answers = self._blocked = False
            self._proceed()

    def is_finished(self) -> bool:
        """Whether the client needs its server connection no longer, once that has answered everything."""
        return not (self.unsynced or self.is_mid_message() or self.session.pins or self.keeps_server)

    def is_mid_message(self) -> bool:
        """Whether the rest of a message is still to come that the server has already begun to get."""
        return self._skip > 0 and not self._drops

    @property
    def held_back(self) -> bool:
        """Whether the client may be sending what is not read yet, because the server has to catch up first."""
        return self._reading_paused != 0

    def server_detached(self) -> None:
        """The server connection went back to the pool."""
        self.server = None
        if self.deadline is not None:
            self.forget_deadline()
        self.request_id = None
        self.awaits_answers = False
        self._resume_reading(_SERVER_FULL)
        if self.draining:
            self.shut_down()

    def server_lost(self, error: ProxyError, requests: int | None, *, in_transaction: bool, mid_message: bool) -> None:
        """The server connection broke; `requests` were not answered. The client stays, if it can go on at all.

        Only what was in flight fails. A client in the midst of a message from the server cannot be told anything. One
        that had pinned state on the connection must not go on as if it were still there, nor one of whose requests
        nobody knows how many were answered (None): it would take one answer for another.
        """
        self.server = None
        self.forget_deadline()
        self.request_id = None
        self.waits_for_answers = self._blocked = False
        self.statements.unnamed_there = False
        self._resume_reading(_SERVER_FULL)
        if mid_message:
            self.transport.abort()
            return
        keeps = self.keeps_server or self.session.pins or self.session.loses_with(in_transaction=in_transaction)
        if requests is None or keeps or self.draining:
            self.fail(error)
            return
        # Who waits for the answer to one request learns by that that its transaction is over. Who has sent more must
        # not have the rest of it run outside.
        self._lost_transaction = in_transaction and (requests != 1 or self._skip > 0 or bool(self._held))
        answer = encode.error_response(error, fatal=False)
        if requests:
            self.deliver((answer + (_READY_FAILED if self._lost_transaction else _READY_IDLE)) * requests)
        if self.unsynced:
            self.unsynced = self.behind_others = False
            self._discarding = True
            self.deliver(answer)
        elif in_transaction and not requests:
            self._doom = error
        self._proceed()

    # What the client gets

    def deliver(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.statistics.sent += len(data)
        self.transport.write(data)

    def tell(self, name: bytes, value: bytes) -> bool:
        """The client shall know that a parameter has this value. Returns: whether that is news to it."""
        if self.told.get(name) == value:
            return False
        self.told = {**self.told, name: value}
        return True

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
        if self.closing:
            return
        if self.server is not None and self.server.is_mid_message():
            # Whatever is written now would be taken for a part of a row.
            self.transport.abort()
            self.closing = True
            self._let_go()
            return
        self.deliver(encode.error_response(error, fatal=True))
        self.close()

    def close(self) -> None:
        """Close once everything has been sent to the client."""
        self.closing = True
        self.transport.close()
        self._let_go()

    def shut_down(self) -> None:
        """Close with 57P01 as soon as no transaction is under way."""
        self.draining = True
        server = self.server
        if server is None:
            if not self.waiting:
                self.end()
        elif server.status == IDLE and not server.owed and not self.unsynced and not self.is_mid_message():
            self.end()  # pinned, but idle

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
            mid_message, self._skip = self.is_mid_message(), 0
            server.abandon()
            self.owner.orphaned(server, self, mid_message)
        self.forget_deadline()
