"""One logged-in connection to PostgreSQL: walks what the server sends, passes it to the client that holds it.

Messages are forwarded as they came, in whole chunks; only the few kinds that say something about the connection's
state are read. `owed` is the queue of what the server has yet to answer, in order.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from tidegate_proxy.core.codes import (
    COPY_DONE_IN_REQUEST,
    FORWARDED,
    FROM_SERVER,
    NOBODYS_VALUES,
    QUERY_AFTER_EXTENDED,
    READ_TAGS,
    UNKNOWN,
)
from tidegate_proxy.core.connection import Connection
from tidegate_proxy.core.look import Owed as _Owed
from tidegate_proxy.core.statements import (
    NAME_PREFIX,
    NOBODYS,
    CloseToken,
    InternalQuery,
    ParseToken,
    Statement,
    ignored,
)
from tidegate_proxy.core.tags import read_tag
from tidegate_proxy.errors import ClientProtocolError, ConnectionLostError, ProxyError, ServerProtocolError
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
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    NOTIFICATION_RESPONSE,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    QUERY,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
    SYNC,
)

if TYPE_CHECKING:
    from tidegate_proxy.core.check import Check
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.owners import ServerOwner

# A column's name that no client can know: the server's answer to us can't be taken for an answer to anybody else.
_MARKER = b"tidegate_" + secrets.token_hex(16).encode()
_SETTLE = encode.query(b"SELECT 1 AS " + _MARKER)

# A Sync that ends the passing over, if there is any, and an empty query, which PostgreSQL answers in every state.
_PROBE = encode.sync() + encode.query(b"")

# PostgreSQL 18 takes a simple query behind extended-protocol messages for a part of their pipeline, and its end for the
# pipeline's: after a bare Sync it refuses whatever comes next (XX000, "unexpected state STARTED"). A Parse and its Sync
# end that, or are what is refused.
_END_PIPELINE = encode.parse(b"", b"SHOW server_version", b"\0\0") + encode.sync()

# Owed, but without an answer.
_ENDS_COPY = frozenset({COPY_DONE, COPY_DONE_IN_REQUEST})
_NO_REQUEST = _ENDS_COPY | {FLUSH}

_NOTHING, _MARKED, _LAST_READY, _PROBED = range(4)

MAX_WHOLE_MESSAGE = 1 << 16
"""Bytes of a server message up to which it is waited for and read whole; longer ones are passed on as they come."""


def _no_transactions() -> ProxyError:
    return ClientProtocolError(
        "transaction blocks are not allowed in statement pooling mode",
        sqlstate="0A000",
        hint='Send single statements, or set pool_mode = "transaction" for this database or user.',
    )


class ServerConnection(Connection):
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
        # Event-loop times: of what its client has asked and not got yet, and of the transaction's beginning; else 0.
        self.asked = self.began = 0.0
        # How long its client waited for it, until its first answer; and the requests that are counted already.
        self.waited = 0.0
        self.counted = 0
        self.transport = cast(asyncio.Transport, None)
        self.client: ClientConnection | None = None
        self.owed = _Owed()
        self.status = IDLE
        # True from CopyInResponse until the copy's end or error.
        self.copy_in = False
        self.write_blocked = False
        # Cancel requests under way: until they end, the connection must not serve anybody else.
        self.cancels = 0
        # Its client has vanished and it is not clean yet: what comes is for nobody.
        self.abandoned = False
        # Statements whose Parse is not answered yet, with the number of the request that it belongs to.
        self.unconfirmed: dict[bytes, int] = {}
        self.request = 0
        # What is prepared here, least recently used first.
        self.prepared: dict[bytes, Statement] = {}
        # Statements under a client's own name, left by an error; closed before the next client.
        self.stray_names: list[bytes] = []
        # What a client deallocates by SQL: protocol-level statements, under the name that it knows, or others.
        self.deallocating: list[tuple[bytes, Statement] | None] = []
        # The client that used it last.
        self.last_client = 0
        # The only client whose nextval may have left a value here; 0 where anybody's may.
        self.sequences_of = NOBODYS_VALUES
        # An INSERT was run since they were last discarded.
        self.sequences_used = False
        # Something was done that no clean-up undoes: closed, not reused, when its client is done.
        self.tainted = False
        # The pool's, when it was opened: an older one is not used again.
        self.generation = 0
        # Session parameters that the proxy has set here, beside the server's own defaults.
        self.applied: dict[str, str] = {}
        # A Sync of ours is under way that ends the preparing of statements.
        self.ends_preparing = False
        # Execute messages without an answer, and those of them that a Flush follows, so that their answer will come.
        self.executes = self.flushed = 0
        # The latest ParameterStatus of each parameter.
        self.reported: dict[bytes, bytes] = {}
        # Why the connection is ending, once that is known.
        self.fatal: ProxyError | None = None
        self.closing = False
        self._tail = b""
        self._skip = 0
        self._internal = False
        self._copy_syncs_dropped = False
        # An error was sent since the last ReadyForQuery that a client got.
        self._failed = False
        # The server may owe one ReadyForQuery more than `owed` says; settled by `settle` before anyone else is served.
        self.uncertain = False
        self._settling = _NOTHING
        # While it is probed: the latest ReadyForQuery, held until it is known not to be that of our Sync; and how many
        # others there were.
        self._held_ready = b""
        self._probed = 0
        # It is to be probed, once the message is complete that the client is sending.
        self.probe_due = False
        # A simple query behind extended-protocol messages was answered since the pipeline was last ended.
        self.ends_pipeline = False
        self._waiters: list[asyncio.Future[None]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, or by whoever hands over a transport after the login."""
        self.transport = cast(asyncio.Transport, transport)

    def eof_received(self) -> None:
        """Nothing more comes, or not even what was sent before: nobody shall be given this connection any more."""
        self.closing = True

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
            high = data[pos + 1] << 8 | data[pos + 2]
            length = high << 16 | data[pos + 3] << 8 | data[pos + 4]
            end = pos + 1 + length
            action = FROM_SERVER[kind]
            if (
                action == FORWARDED
                and not self._internal
                and not self._settling
                and (self.client is not None or owed or self.abandoned)
            ):
                if end > size:
                    self._skip = end - size
                    pos = size
                    break
                pos = end
                continue
            if (
                kind == COMMAND_COMPLETE
                and not (self._internal or self._settling)
                and (self.client is not None or owed)
                and 4 < length <= size - pos - 1
                and not READ_TAGS[data[pos + 5]]
            ):
                # What most transactions consist of.
                if self.executes:
                    self._execute_ended()
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
            if kind == READY_FOR_QUERY:
                if length != 5:
                    self._violation(kind)
                    return
                status = data[pos + 5]
                if status != IDLE and self.client is not None and self.client.single_statements:
                    self._deliver(data[start:pos])
                    self.status = status
                    while owed and owed.popleft() not in (QUERY, QUERY_AFTER_EXTENDED, SYNC, FUNCTION_CALL):
                        pass
                    self.client.fail(_no_transactions())
                    return
                if self._settling == _PROBED:
                    if start < pos:
                        self._deliver(data[start:pos])
                    self._ready_while_probed(data[pos:end])
                    pos = start = end
                    continue
                # Everything up to here must be with the client before the connection may go to another one.
                if (
                    not self._internal
                    and self._settling != _LAST_READY
                    and not (self.ends_preparing and self._answers_flush)
                ):
                    self._deliver(data if start == 0 and end == size else data[start:end])
                elif start < pos:
                    self._deliver(data[start:pos])
                pos = start = end
                self.status = status
                self._ready()
                if self.closing:
                    return
                continue
            body = data[pos + 5 : end] if length > 4 else b""
            if self._internal:
                if kind == NOTIFICATION_RESPONSE:
                    # It may come between any two messages, and is no answer to us.
                    self._deliver(data[pos:end])
                else:
                    self._read_internal(kind, body)
                pos = start = end
            elif self._settling == _LAST_READY:
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
        if kind in (COMMAND_COMPLETE, EMPTY_QUERY_RESPONSE, PORTAL_SUSPENDED):
            if kind == EMPTY_QUERY_RESPONSE and self._settling == _PROBED:
                self._settling = _LAST_READY
                return False
            if self.executes:
                self._execute_ended()
            if kind == COMMAND_COMPLETE and body and READ_TAGS[body[0]]:
                read_tag(self, body)
        elif kind == PARSE_COMPLETE:
            token = self._next_owed()
            if not isinstance(token, ParseToken):
                self._violation(kind)
                return False
            parsed = token
            statement = parsed.statement
            if parsed.unnamed_of is not None and self.client is not None:
                self.client.statements.parsed(parsed)
            if statement is not None:
                self.unconfirmed.pop(statement.name, None)
                if not statement.private:
                    # An earlier Parse of it, which failed, may have taken it out of the books.
                    self.prepared[statement.name] = statement
            return not parsed.swallow
        elif kind == CLOSE_COMPLETE:
            token = self._next_owed()
            if not isinstance(token, CloseToken):
                self._violation(kind)
                return False
            if token.unnamed_of is not None and self.client is not None:
                token.unnamed_of.closed()
            return not token.swallow
        elif kind == ERROR_RESPONSE:
            return self._read_error(body)
        elif kind == COPY_IN_RESPONSE:
            self._copy_in_begins()
        elif kind == ROW_DESCRIPTION and self._settling == _MARKED and _MARKER in body:
            self._settling = _LAST_READY
            return False
        elif kind == PARAMETER_STATUS and body:
            name = self._read_parameter(body)
            if name is not None and self.client is not None:
                self.client.tell(name, self.reported[name])
        elif FROM_SERVER[kind] == FORWARDED and not self.owed and self.client is None and not self.abandoned:
            self._violation(kind)
        # Notices, notifications and parameters outside a request come unasked; a connection that nobody holds has
        # nobody to tell.
        return True

    def _execute_ended(self) -> None:
        self.executes -= 1
        self.flushed = max(0, self.flushed - 1)

    def _next_owed(self) -> int | ParseToken | CloseToken | InternalQuery | None:
        owed = self.owed
        while owed:
            token = owed[0]
            if isinstance(token, (ParseToken, CloseToken)):
                return owed.popleft()
            if token not in _ENDS_COPY:
                break
            owed.popleft()
        return None

    def _read_error(self, body: bytes) -> bool:
        """An ErrorResponse. One that ends the connection is kept: the client hears of it in our words."""
        in_copy = self.copy_in
        if in_copy:
            self.copy_in = False
            # Which Sync the server goes on from depends on how far it had read.
            self.uncertain = self.uncertain or self._copy_syncs_dropped
        if self.client is not None and b"\0RRevalidateCachedQuery\0" in body:
            # "cached plan must not change result type", in whatever language: who prepares anew needs a new plan.
            self.client.owner.schema_changed()
        if b"\0C25006\0" in body[:80]:
            # A write was refused: the transaction is read only, or the whole server has become so.
            self.owner.read_only_seen(self)
        if b"\0C26000\0" in body[:80] and NAME_PREFIX in body and NOBODYS not in body:
            # Something out of sight, a function say, has deallocated what was prepared here.
            self.stray_names += self.prepared
            self.prepared.clear()
        # Severity comes first, translated and then plain; nothing else needs the whole body.
        if body.startswith((b"VFATAL\0", b"VPANIC\0"), body.find(0) + 1):
            self.fatal = decode.error_from_fields(decode.parse_error_fields(body))
            self.fatal.hint = self.fatal.hint or ConnectionLostError.default_hint
            return False
        if not self._internal:
            if (
                self.client is not None
                and self.owed
                and not (self._failed or self._settling or in_copy or self.uncertain)
            ):
                refused = self.owed[0]
                if isinstance(refused, ParseToken) and refused.unnamed_of is not None and refused.begins_request:
                    refused.unnamed_of.refused(refused)
            self._failed = True
            if self.client is not None:
                self.client.session.failed = True
                self.client.statistics.errors += 1
        if self.client is None and not self.owed and not self.abandoned:
            self._violation(ERROR_RESPONSE)
        elif not (self._settling or self._internal or (in_copy and self.uncertain)):
            request = self._next_request
            if request == QUERY_AFTER_EXTENDED:
                if self.client is not None and self.client.is_mid_message():
                    self.probe_due = True
                else:
                    self.probe()
            elif request is None and not in_copy and self.client is not None and self.client.unsynced:
                self.client.passed_over()
        return True

    def _copy_in_begins(self) -> None:
        """While the server reads COPY data it ignores Sync, also one that was sent before the client could know."""
        self.copy_in = True
        before = list(self.owed)
        self.owed.clear()
        request = next((token for token in before if token not in _ENDS_COPY), None)
        extended = request == SYNC
        if not extended and before:
            self.owed.append(before.pop(0))
        while before and before[0] not in _ENDS_COPY:
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
            if extended:
                # Its own Sync may have been ignored as a part of the copy.
                self.transport.write(encode.sync())
                self.owed.append(SYNC)
        elif extended and SYNC not in before:
            self.client.unsynced = True

    def sync_ignored(self) -> None:
        """The client sent a Sync in the midst of its COPY data."""
        self.uncertain = True

    def _ready(self) -> None:
        """ReadyForQuery: take from the queue what it answers. What the server skipped after an error never happened."""
        owed = self.owed
        failed, self._failed = self._failed, False
        self.copy_in = False
        if self.client is None or not self.client.unsynced:
            self.executes = self.flushed = 0
        if self._settling == _MARKED:
            if self.status != IDLE:
                # Our question cannot be answered any more.
                self.fail(ServerProtocolError("the state of the server connection cannot be told"))
            return
        if self._settling == _LAST_READY:
            client = self.client
            requests = sum(1 for token in owed if isinstance(token, int) and token not in _ENDS_COPY)
            passed_over = bool(self._held_ready) and self._probed < requests
            if passed_over and client is not None:
                # It came after what was skipped, so it is taken back first.
                client.statements.query_passed_over()
            elif self._held_ready and client is not None:
                client.statements.query_answered()
            # Whatever was still thought to be owed was skipped.
            self._undo([token for token in owed if isinstance(token, (ParseToken, CloseToken))])
            if self._held_ready:
                if passed_over and client is not None and SYNC not in owed:
                    client.passed_over()
                self._held_ready = b""
            owed.clear()
            self._settling = _NOTHING
            self.uncertain = False
            self._all_answered(True)
            # It may have got this same connection again, and be blocked for another reason.
            if client is not None and self.client is client and not (self._settling or self.ends_preparing):
                client.unblock()
            return
        answered = self.uncertain
        internal = ends_preparing = False
        skipped: list[ParseToken | CloseToken] | None = None
        while owed:
            token = owed.popleft()
            if isinstance(token, int):
                request = token
                if request != COPY_DONE and request != COPY_DONE_IN_REQUEST:
                    answered = True
                    if request == FLUSH:
                        ends_preparing = True
                        self.ends_preparing = False
                    elif request in (QUERY, QUERY_AFTER_EXTENDED):
                        if self.client is not None:
                            self.client.statements.query_answered()
                        if request == QUERY_AFTER_EXTENDED:
                            self.ends_pipeline = True
                    if self.deallocating:
                        self.deallocating.clear()
                    break
            elif isinstance(token, InternalQuery):
                answered = internal = True
                if token.reported:
                    self._tell(token.reported)
                token.answered(token)
                break
            elif skipped is None:
                skipped = [token]
            else:
                skipped.append(token)
        if skipped is not None:
            self._undo(skipped)
        more = bool(owed)
        self._internal = False
        if more:
            while owed and owed[0] == COPY_DONE:
                owed.popleft()
            more = bool(owed)
            self._internal = more and isinstance(owed[0], InternalQuery)
        client = self.client
        if ends_preparing and client is not None:
            client.prepared(failed=failed)
            self._all_answered(True)
            # After an error the client goes on only without a server connection: `release_if_done` unblocks it.
            if not failed and self.client is client and not (self._settling or self.ends_preparing):
                client.unblock()
        elif not answered:
            self._violation(READY_FOR_QUERY)
        elif not more or (self.uncertain and self.client is not None):
            self._all_answered(internal)
        client = self.client
        if client is not None and client.waits_for_answers and not self._settling:
            client.unblock()

    @property
    def _next_request(self) -> int | None:
        """What the next ReadyForQuery answers, if that is a request of the client's."""
        return next((token for token in self.owed if isinstance(token, int) and token not in _ENDS_COPY), None)

    @property
    def _answers_flush(self) -> bool:
        """Whether the next ReadyForQuery answers the Sync that we sent after a client's Flush."""
        return self._next_request == FLUSH

    def probe(self) -> None:
        """Find out whether the error is that of a Query, or of something before it, so that the Query is passed over.

        All that can still come before our answers are the ReadyForQuery of what the client has sent.
        """
        self.probe_due = False
        self._settling = _PROBED
        self._probed = 0
        if self.client is not None:
            self.client.block()
            self.client.statements.unnamed_there = False
        self.transport.write(_PROBE)

    def _ready_while_probed(self, message: bytes) -> None:
        if self._held_ready:
            self._deliver(self._held_ready)
            self._probed += 1
        self._held_ready = message
        self.status = message[-1]

    def _undo(self, skipped: list[ParseToken | CloseToken]) -> None:
        """What the server skipped never happened; the last of it is taken back first."""
        for token in reversed(skipped):
            if isinstance(token, ParseToken) and token.statement is not None:
                self.prepared.pop(token.statement.name, None)
                self.unconfirmed.pop(token.statement.name, None)
            if token.undo is not None:
                token.undo()
            elif token.unnamed_of is not None:
                token.unnamed_of.passed_over(token)

    def _all_answered(self, internal: bool) -> None:
        self._copy_syncs_dropped = False
        if self._waiters:
            self._wake()
        client = self.client
        if client is not None and self.asked > 0 and not internal:
            taken = client.statistics.answered(
                self.asked, self.began, self.waited, self.request - self.counted, self.status == IDLE
            )
            if client.statistics.keeps_requests:
                if taken >= client.statistics.slow:
                    self.owner.slow_request(client, taken)
                client.asks = None
            self.counted = self.request
            self.asked = self.waited = 0
            if self.status == IDLE:
                self.began = 0
        if client is not None and client.draining and self.status == IDLE and not client.unsynced:
            client.end()
            return
        if client is not None and not client.unsynced and not client.is_mid_message():
            if client.deadline is not None and self.status == IDLE and not self.owed:
                client.forget_deadline()
            if self.uncertain and self.status == IDLE:
                self.settle()
                return
            if self.owed:
                return
            if self.ends_pipeline and self.status == IDLE:
                self.end_pipeline()
                return
            if self.stray_names and self.status == IDLE:
                self.close_strays()
                return
            if client.watch.restoring:
                restore = client.watch.restore(self.status)
                if restore:
                    # It can fail only where nothing was reset.
                    self.begin_internal(ignored)
                    self.transport.write(restore)
                    return
            check = client.watch.next_check(not internal) if self.status == IDLE else None
            if check is not None:
                self.ask(client, check)
                self.transport.write(encode.query(check.sql()))
                return
        self.release_if_done()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def end_pipeline(self) -> None:
        """Let no later Sync find a pipeline that a simple query has ended."""
        self.ends_pipeline = False
        self.begin_internal(ignored)
        self.transport.write(_END_PIPELINE)

    def close_strays(self) -> None:
        """Close what may be prepared here and is in nobody's books."""
        names, self.stray_names = self.stray_names, []
        for name in names:
            self.prepared.pop(name, None)
        self.begin_internal(ignored)
        self.transport.write(b"".join(encode.close_statement(name) for name in names) + encode.sync())

    def ask(self, client: ClientConnection, check: Check) -> None:
        """Expect the answer to the question what is left in the client's session."""
        self.begin_internal(lambda query: client.watch.checked(self, check, query))

    def settle(self) -> None:
        """Ask something of our own: whatever comes before its answer belongs to the client, and after it nothing is
        owed."""
        self._settling = _MARKED
        if self.client is not None:
            self.client.block()
            self.client.statements.unnamed_there = False
        self.owed.append(QUERY)
        self.transport.write(_SETTLE)

    # Holding and releasing

    @property
    def reads_standard_strings(self) -> bool:
        """Whether a backslash in a plain string means itself."""
        return self.reported.get(b"standard_conforming_strings") != b"off"

    def is_mid_message(self) -> bool:
        """Whether the client has only got the first part of a message."""
        return self._skip > 0

    @property
    def copy_is_ended(self) -> bool:
        """Whether the client has sent the end of some copy that the server has not answered yet."""
        return COPY_DONE in self.owed or COPY_DONE_IN_REQUEST in self.owed

    @property
    def can_end_preparing(self) -> bool:
        """Whether no transaction is open, nor may be opened by anything that is not answered yet."""
        return (
            self.status == IDLE
            and not self.copy_in
            and not self.uncertain
            and not any(isinstance(token, int) for token in self.owed)
        )

    @property
    def owes_nothing_to_client(self) -> bool:
        """Whether everything that is owed was asked by the proxy itself."""
        return all(isinstance(token, InternalQuery) for token in self.owed)

    @property
    def owes_only_itself(self) -> bool:
        """Whether the proxy alone waits for an answer: a cancellation would hit what no client has asked."""
        return bool(self.owed) and self.owes_nothing_to_client

    def is_reusable(self) -> bool:
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
        return self.flushed > 0 or any(
            isinstance(token, (int, InternalQuery)) and token not in _ENDS_COPY for token in self.owed
        )

    def look_again(self) -> None:
        """Something else than an answer may have ended the client's need of this connection."""
        if self.client is not None and not self.owed and not self.closing:
            self._all_answered(False)

    def release_if_done(self) -> None:
        """Give the connection back to its pool if its client does not need it any longer."""
        client = self.client
        if client is None or not client.is_finished() or not self.is_reusable():
            return
        self.client = None
        self.last_client = client.pid
        if self.sequences_of != client.pid:
            # It may have used some, unseen.
            self.sequences_of = client.pid if self.sequences_of == NOBODYS_VALUES else 0
        if client.write_blocked:
            self.transport.resume_reading()
        client.server_detached()
        if not self.owner.put_back(self):
            self.owner.server_released(self)
        client.unblock()

    def abandon(self) -> None:
        """The client has vanished: what still comes is for nobody."""
        client = self.client
        self.client = None
        if client is not None:
            self.last_client = client.pid
            self.sequences_of = 0
        self.abandoned = True
        if client is not None and client.write_blocked:
            self.transport.resume_reading()

    # Requests of the proxy's own

    def begin_internal(self, answered: Callable[[InternalQuery], None]) -> None:
        """Expect the answer, up to one ReadyForQuery, to messages of ours. Nothing of a client's may be owed."""
        if self.client is not None:
            # A simple query destroys the unnamed statement, also one of ours.
            self.client.statements.unnamed_there = False
        self.owed.append(InternalQuery(answered))
        self._internal = isinstance(self.owed[0], InternalQuery)

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
            raise self.fatal or ConnectionLostError()
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
            name = self._read_parameter(body)
            if name is not None:
                query.reported.add(name)
        elif kind == ERROR_RESPONSE and self._read_error(body) and query.error is None:
            query.error = decode.parse_error_fields(body)

    def _read_parameter(self, body: bytes) -> bytes | None:
        try:
            name, value = decode.parse_parameter_status(body)
        except ServerProtocolError as error:
            self.fail(error)
            return None
        self.reported[name] = value
        return name

    def _tell(self, names: set[bytes]) -> None:
        """What our own request changed may have another value than the client was told last."""
        if self.client is not None:
            for name in names:
                if self.client.tell(name, self.reported[name]):
                    self.client.deliver(encode.parameter_status(name, self.reported[name]))

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
        error = self.fatal or ConnectionLostError()
        self.fatal = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()
        client = self.client
        self.client = None
        self.owner.server_lost(self)
        if client is not None:
            self._part(client, error)

    def cut_off(self, error: ProxyError) -> None:
        """Take the connection away from its client, to whom it looks as if it were lost. It has to be cleaned."""
        client = self.client
        if client is not None:
            self.abandon()
            self._part(client, error)

    def _part(self, client: ClientConnection, error: ProxyError) -> None:
        client.statistics.requests += self.request - self.counted
        requests: int | None = None
        if not (self.uncertain or self._settling):
            requests = sum(1 for token in self.owed if isinstance(token, int) and token not in _NO_REQUEST)
        owed = list(self.owed)
        self._undo([token for token in owed if isinstance(token, (ParseToken, CloseToken))])
        client.statements.server_lost(with_query=QUERY in owed or QUERY_AFTER_EXTENDED in owed)
        # If it goes on without its client, for whom all of this never happened, then nothing of it is the client's.
        self.owed.clear()
        for token in owed:
            if isinstance(token, ParseToken):
                self.owed.append(ParseToken(token.statement))
            else:
                self.owed.append(CloseToken() if isinstance(token, CloseToken) else token)
        client.server_lost(error, requests, in_transaction=self.status != IDLE, mid_message=self.is_mid_message())
