"""psycopg's connections, blocking and asyncio, that end in time and know what they leave behind.

Both keep psycopg's interface. Only methods that psycopg documents are overridden, and the one that makes the text of
BEGIN, which every psycopg 3 has; were it not called some day, the proxy would not be told deadlines, and nothing else.
"""

from __future__ import annotations

import math
import select
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn
from psycopg.rows import TupleRow

from . import blame, retry
from .checking import is_alive
from .deadline import LONGEST_TICK, Expired, Protocol, R, bounded, cancelled, end_of_wait, given_up, tick
from .errors import CommitOutcomeUnknown

IDLE, INTRANS = TransactionStatus.IDLE, TransactionStatus.INTRANS
PIPELINE_OFF = PipelineStatus.OFF

# What the server reports unasked when it changes. Asking libpq for these costs no round trip.
_REPORTED = (b"TimeZone", b"DateStyle", b"client_encoding", b"search_path", b"session_authorization", b"is_superuser")

Reported = tuple[bytes | None, ...]


class Guarded:
    """What both kinds of connection remember.

    - `until`: the deadline of statements, on time.monotonic()'s clock; infinity for none.
    - `grace`: seconds after it for cancelling and rolling back.
    - `request`: what tells Tidegate's proxy the invocation's request id, for its log; empty for none.
    - `opened_at`: the line that began the present or the last transaction.
    - `changed_at`: the line of the first statement that looks as if it changed the session; None if none did.
    - `lasting`: such a statement may have left something that no reset takes away.
    - `ending`: COMMIT or ROLLBACK is on its way, for which there is some time even after the deadline.
    - `wrote`: a statement since the beginning of `transaction()` looks as if it wrote data.
    - `in_run`: `transaction()` runs a function, which must not commit.
    - `unwritable`: the server refused to write (SQLSTATE 25006), as one that was the writer before a failover.
    - `inherited`: a parent process opened it; this one must not say anything on it.
    - `through_tidegate`: the other side is Tidegate's proxy, which enforces deadlines that it is told.
    """

    pgconn: PGconn
    cursor_factory: Any

    def _begin_guard(self) -> None:
        self.until = math.inf
        self.grace = 1.0
        self.request = b""
        self.opened_at: blame.Place | None = None
        self.changed_at: blame.Place | None = None
        self.lasting = False
        self.wrote = False
        self.in_run = False
        self.ending = False
        self.unwritable = False
        self.inherited = False
        self.through_tidegate = self.pgconn.parameter_status(b"tidegate.version") is not None
        self.baseline = self.reported()
        self.poller = select.poll()
        self.poller.register(self.pgconn.socket, select.POLLIN)

    def reported(self) -> Reported:
        """The session's parameters as the server has reported them."""
        return tuple(map(self.pgconn.parameter_status, _REPORTED))

    def note(self, query: object, *, keeps: bool = False) -> None:
        """Take notice of a statement that is about to be sent.

        Parameters: `query`, its text; `keeps`, whether it leaves a cursor in the session.
        Raises: psycopg.ProgrammingError, where it would end or begin a transaction within `transaction()`.
        """
        verdict = blame.judge(query)
        if self.pgconn.transaction_status == IDLE:
            self._refuse_in_run()  # it has been ended out of our sight, and a new one would begin
            self.opened_at = blame.place(3)
        elif verdict.ends:
            self._refuse_in_run()
        if verdict.writes:
            self.wrote = True
        if verdict.suspect or keeps:
            self.lasting |= verdict.lasting
            self.changed_at = self.changed_at or blame.place(3)

    def with_deadline(self, begin: bytes) -> bytes:
        """The text of a BEGIN, which tells Tidegate's proxy how long the transaction may take, and for which request.

        psycopg sends it anyway, in a message of its own, so this adds no round trip. What is told is the end of the
        grace, as the layer's own cancel should come first: the proxy's is for a function that is frozen or gone.
        """
        if not self.through_tidegate or self.until == math.inf:
            return begin
        left = max(1, int((self.until + self.grace - monotonic()) * 1000))
        return b"%b /* tidegate.deadline_ms=%d%b */" % (begin, left, self.request)

    def nothing_to_end(self) -> bool:
        """Whether commit or rollback has nothing to do. Raises: psycopg.ProgrammingError within `transaction()`."""
        self._refuse_in_run()
        return self.pgconn.transaction_status == IDLE and self.pgconn.pipeline_status == PIPELINE_OFF

    def _refuse_in_run(self) -> None:
        # What the function had committed would be done twice if it was run again.
        if self.in_run:
            raise psycopg.ProgrammingError(
                "transaction() commits or rolls back when the function ends; leave both to it"
            )

    def unwatched(self) -> bool:
        """Whether the user's own class of cursors is in use, whose statements are not noticed."""
        return self.cursor_factory not in (Cursor, AsyncCursor)

    def in_failed_transaction(self) -> bool:
        """Whether nothing but ROLLBACK would do anything; it is what psycopg then sends, if it sends anything."""
        return self.pgconn.transaction_status == TransactionStatus.INERROR

    def drop(self, protocol: Generator[Any, Any, Any]) -> None:
        """Break the connection locally, whatever the network does."""
        protocol.close()
        self.pgconn.finish()


def require_alive(conn: AnyConnection) -> None:
    """Raises: psycopg.errors.ConnectionFailure, if the connection is lost before COMMIT was sent on it."""
    if conn.closed or (conn.pgconn.transaction_status == INTRANS and not is_alive(conn)):
        conn.pgconn.finish()
        raise psycopg.errors.ConnectionFailure("the connection was lost before COMMIT was sent; nothing was committed")


def unknown_outcome(error: psycopg.Error, *, broken: bool, xid: int | None = None) -> CommitOutcomeUnknown | None:
    """What to raise instead of `error`, which came in place of COMMIT's answer; None if that is a definite no."""
    if not retry.commit_outcome_unknown(error, broken=broken):
        return None
    return CommitOutcomeUnknown(
        f"the connection was lost at COMMIT, which may or may not have taken effect: {error}", xid
    )


class Cursor(psycopg.Cursor[TupleRow]):
    """psycopg's cursor; its connection takes notice of what is executed."""

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Self:
        self.connection.note(query)  # type: ignore[attr-defined]
        return super().execute(query, params, **keywords)

    def executemany(self, query: Any, params_seq: Iterable[Any], **keywords: Any) -> None:
        self.connection.note(query)  # type: ignore[attr-defined]
        super().executemany(query, params_seq, **keywords)

    def stream(self, query: Any, params: Any = None, **keywords: Any) -> Iterator[TupleRow]:
        self.connection.note(query)  # type: ignore[attr-defined]
        return super().stream(query, params, **keywords)

    def copy(self, statement: Any, params: Any = None, **keywords: Any) -> Any:
        self.connection.note(statement)  # type: ignore[attr-defined]
        return super().copy(statement, params, **keywords)


class ServerCursor(psycopg.ServerCursor[TupleRow]):
    """psycopg's named cursor; its connection takes notice of one that outlives its transaction."""

    def execute(self, query: Any, params: Any = None, **keywords: Any) -> Self:
        self.connection.note(query, keeps=self.withhold)  # type: ignore[attr-defined]
        return super().execute(query, params, **keywords)


class Connection(Guarded, psycopg.Connection[TupleRow]):
    """psycopg.Connection whose statements end at the invocation's deadline."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor
        self._begin_guard()

    def _get_tx_start_command(self) -> bytes:
        return self.with_deadline(super()._get_tx_start_command())

    def wait(self, gen: Protocol[R], interval: float = LONGEST_TICK, timeout: float | None = None) -> R:
        """Drive psycopg's protocol code, until the deadline.

        Raises: DeadlineExceeded, when the statement was cancelled or, if the deadline had passed, not sent.
        """
        # Given only by versions of psycopg whose own `wait` takes it.
        more = () if timeout is None else (timeout,)
        if self.until == math.inf:
            return super().wait(gen, interval, *more)
        until, remaining = self.until, self.until - monotonic()
        if remaining <= 0:
            until = end_of_wait(until, self.grace, ending=self.ending or self.in_failed_transaction())
            remaining = until - monotonic()
        try:
            return super().wait(bounded(gen, until), tick(remaining), *more)
        except Expired:
            pass
        except psycopg.errors.QueryCanceled as error:
            # Tidegate's proxy was first. Before the deadline it is somebody else's cancel, or statement_timeout.
            if monotonic() < self.until:
                raise
            raise cancelled() from error
        return self._stop(gen)

    def _stop(self, gen: Protocol[R]) -> R:
        end = self.until + self.grace
        try:
            self.cancel_safe(timeout=max(0.01, end - monotonic()))
            left = max(0.01, end - monotonic())
            return super().wait(bounded(gen, monotonic() + left), tick(left))
        except psycopg.errors.QueryCanceled as error:
            raise cancelled() from error
        except (Expired, OSError, psycopg.OperationalError) as error:
            self.drop(gen)
            raise given_up() from error

    def commit(self) -> None:
        """As psycopg's. Raises: CommitOutcomeUnknown, when the connection is lost between COMMIT and its answer."""
        if self.nothing_to_end():
            return
        require_alive(self)
        self.ending = True
        try:
            super().commit()
        except psycopg.Error as error:
            if unknown := unknown_outcome(error, broken=self.broken):
                raise unknown from error
            raise
        finally:
            self.ending = False

    def rollback(self) -> None:
        """As psycopg's; nothing to do costs nothing, even after the deadline."""
        if self.nothing_to_end():
            return
        self.ending = True
        try:
            super().rollback()
        finally:
            self.ending = False

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg's. Raises: CommitOutcomeUnknown, when the connection is lost between COMMIT and its answer."""
        outermost = self.pgconn.transaction_status == IDLE
        if outermost:
            self.opened_at = blame.place()
        committing = False
        try:
            with super().transaction(savepoint_name, force_rollback) as transaction:
                try:
                    yield transaction
                    if outermost:
                        require_alive(self)
                        committing = not force_rollback
                finally:
                    self.ending = True
        except psycopg.Error as error:
            if committing and (unknown := unknown_outcome(error, broken=self.broken)):
                raise unknown from error
            raise
        finally:
            self.ending = False


class AsyncCursor(psycopg.AsyncCursor[TupleRow]):
    """psycopg's cursor; its connection takes notice of what is executed."""

    async def execute(self, query: Any, params: Any = None, **keywords: Any) -> Self:
        self.connection.note(query)  # type: ignore[attr-defined]
        return await super().execute(query, params, **keywords)

    async def executemany(self, query: Any, params_seq: Iterable[Any], **keywords: Any) -> None:
        self.connection.note(query)  # type: ignore[attr-defined]
        await super().executemany(query, params_seq, **keywords)

    def stream(self, query: Any, params: Any = None, **keywords: Any) -> Any:
        self.connection.note(query)  # type: ignore[attr-defined]
        return super().stream(query, params, **keywords)

    def copy(self, statement: Any, params: Any = None, **keywords: Any) -> Any:
        self.connection.note(statement)  # type: ignore[attr-defined]
        return super().copy(statement, params, **keywords)


class AsyncServerCursor(psycopg.AsyncServerCursor[TupleRow]):
    """psycopg's named cursor; its connection takes notice of one that outlives its transaction."""

    async def execute(self, query: Any, params: Any = None, **keywords: Any) -> Self:
        self.connection.note(query, keeps=self.withhold)  # type: ignore[attr-defined]
        return await super().execute(query, params, **keywords)


class AsyncConnection(Guarded, psycopg.AsyncConnection[TupleRow]):
    """psycopg.AsyncConnection whose statements end at the invocation's deadline."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__(pgconn)
        self.cursor_factory = AsyncCursor
        self.server_cursor_factory = AsyncServerCursor
        self._begin_guard()

    def _get_tx_start_command(self) -> bytes:
        return self.with_deadline(super()._get_tx_start_command())

    async def wait(
        self,
        gen: Protocol[R],
        interval: float = LONGEST_TICK,
        timeout: float | None = None,  # noqa: ASYNC109 -- psycopg's own
    ) -> R:
        """As `Connection.wait`."""
        # Given only by versions of psycopg whose own `wait` takes it.
        more = () if timeout is None else (timeout,)
        if self.until == math.inf:
            return await super().wait(gen, interval, *more)
        until, remaining = self.until, self.until - monotonic()
        if remaining <= 0:
            until = end_of_wait(until, self.grace, ending=self.ending or self.in_failed_transaction())
            remaining = until - monotonic()
        try:
            return await super().wait(bounded(gen, until), tick(remaining), *more)
        except Expired:
            pass
        except psycopg.errors.QueryCanceled as error:
            # Tidegate's proxy was first. Before the deadline it is somebody else's cancel, or statement_timeout.
            if monotonic() < self.until:
                raise
            raise cancelled() from error
        return await self._stop(gen)

    async def _stop(self, gen: Protocol[R]) -> R:
        end = self.until + self.grace
        try:
            await self.cancel_safe(timeout=max(0.01, end - monotonic()))
            left = max(0.01, end - monotonic())
            return await super().wait(bounded(gen, monotonic() + left), tick(left))
        except psycopg.errors.QueryCanceled as error:
            raise cancelled() from error
        except (Expired, OSError, psycopg.OperationalError) as error:
            self.drop(gen)
            raise given_up() from error

    async def commit(self) -> None:
        """As `Connection.commit`."""
        if self.nothing_to_end():
            return
        require_alive(self)
        self.ending = True
        try:
            await super().commit()
        except psycopg.Error as error:
            if unknown := unknown_outcome(error, broken=self.broken):
                raise unknown from error
            raise
        finally:
            self.ending = False

    async def rollback(self) -> None:
        """As `Connection.rollback`."""
        if self.nothing_to_end():
            return
        self.ending = True
        try:
            await super().rollback()
        finally:
            self.ending = False

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[psycopg.AsyncTransaction, None]:
        """As `Connection.transaction`."""
        outermost = self.pgconn.transaction_status == IDLE
        if outermost:
            self.opened_at = blame.place()
        committing = False
        try:
            async with super().transaction(savepoint_name, force_rollback) as transaction:
                try:
                    yield transaction
                    if outermost:
                        require_alive(self)
                        committing = not force_rollback
                finally:
                    self.ending = True
        except psycopg.Error as error:
            if committing and (unknown := unknown_outcome(error, broken=self.broken)):
                raise unknown from error
            raise
        finally:
            self.ending = False


AnyConnection = Connection | AsyncConnection
