"""What a database does for a function, written once for blocking and asyncio handlers.

What happens in every invocation is plain code; what has to wait, and so happens rarely, is a coroutine that waits
through `Waits`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from . import blame, checking, committing, metrics, restoring, retry, utilisation
from .config import Config
from .connection import AnyConnection, require_alive, unknown_outcome
from .errors import CommitOutcomeUnknown, ConfigurationError, TidegateError
from .opening import Opener
from .waits import Waits

PING_TIMEOUT = 2.0
"""Seconds after which a server that does not answer a ping counts as gone."""

GRACE_OUTSIDE = 2.0
"""Seconds for cancelling and cleaning up where no Lambda context sets a limit."""

CLEANING_TIMEOUT = 4.0
"""Seconds after a fraction of which a connection that cannot be restored by then is replaced."""

IDLE, INERROR = TransactionStatus.IDLE, TransactionStatus.INERROR

logger = logging.getLogger("tidegate")


class Core:
    """One connection, its deadline, and who has it."""

    def __init__(self, config: Config, waits: Waits) -> None:
        self.config = config
        self.conn: AnyConnection | None = None
        self.deadline: float | None = None
        self.waits = waits
        self._bucket = retry.Bucket(config.retry_attempts, config.retry_burst, config.retry_rate)
        self._opener = Opener(config, waits, self._bucket)
        self._utilisation = utilisation.Watch(config.close_above)
        self._last_used = 0.0
        self._grace = GRACE_OUTSIDE
        self._request = b""
        self._borrowed = threading.Lock()
        self._borrowed_at: blame.Place | None = None

    def __repr__(self) -> str:
        state = "not connected" if self.conn is None else "connected"
        config = self.config
        return f"{config.user}@{config.host}:{config.port}/{config.dbname} {state}"

    # -- invocations -----------------------------------------------------------------------------------------

    def begin(self, context: object) -> bool:
        """An invocation begins. Returns: False inside another one, which then has neither beginning nor end."""
        if self.deadline is not None:
            return False
        now = time.monotonic()
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        if remaining is None:
            self.deadline = now + self.config.default_timeout
            self._grace = GRACE_OUTSIDE
        else:
            self.deadline = now + remaining() / 1000 - self.config.margin
            self._grace = max(0.05, self.config.margin / 2)
        self._request = _request(getattr(context, "aws_request_id", None))
        return True

    def end_at_once(self) -> bool:
        """The invocation ends. Returns: False if `clean_up` has to be waited for."""
        self.deadline = None
        return not self._borrowed.locked() and self._is_clean()

    async def clean_up(self) -> None:
        """Restore the connection or close it, and write metrics."""
        # Kept from other threads until it is clean.
        if not self._borrowed.acquire(blocking=False):
            logger.warning(
                "the invocation ended inside a connection() block, begun at %s; the block should end before it",
                self._borrowed_at,
            )
        await self.give_back_cleaned()

    def _is_clean(self) -> bool:
        conn = self.conn
        if conn is not None:
            conn.until = math.inf
        return (
            (conn is None or restoring.is_as_opened(conn))
            and not self._utilisation.due()
            and not metrics.recorder.due()
        )

    async def _clean(self) -> None:
        conn = self.conn
        if conn is not None:
            conn.in_run = False
            conn.grace = min(CLEANING_TIMEOUT, self._grace) / 4
            conn.until = time.monotonic() + conn.grace
            if (
                conn.closed
                or not (restoring.is_as_opened(conn) or await self._restored(conn))
                or await self._utilisation.too_high(conn, self.waits)
            ):
                self.close()
            conn.until, conn.grace = math.inf, GRACE_OUTSIDE
        metrics.recorder.flush(wanted=self.config.metrics)

    async def _restored(self, conn: AnyConnection) -> bool:
        try:
            return await restoring.restore(conn, self.waits, self._borrowed_at)
        except psycopg.Error as error:
            logger.warning("the connection is replaced, it could not be restored: SQLSTATE %s", error.sqlstate)
            return False

    # -- the connection --------------------------------------------------------------------------------------

    def until(self) -> float:
        """The deadline of waiting for a connection, on time.monotonic()'s clock."""
        if self.deadline is not None:
            return self.deadline
        return time.monotonic() + self.config.default_timeout

    def take(self, place: blame.Place | None) -> AnyConnection | None:
        """Borrow the connection if it is good as it stands; `borrow` otherwise."""
        conn = self.conn
        if conn is None or not self._borrowed.acquire(blocking=False):
            return None
        if not checking.is_alive(conn):
            # What told so has been read now, and will not be seen again.
            checking.close(conn)
        if (
            conn.closed
            or conn.pgconn.transaction_status != IDLE
            or conn.unwritable
            or checking.idle_for(self._last_used) > self.config.idle_check
        ):
            self._borrowed.release()
            return None
        metrics.recorder.reused += 1
        return self._hand_out(conn, place)

    async def borrow(self, place: blame.Place | None) -> AnyConnection:
        """Borrow the connection, or one that takes its place.

        Raises: DeadlineExceeded; TidegateError if it is borrowed already; what `Opener.open_by` raises.
        """
        if not self._borrowed.acquire(blocking=False):
            raise TidegateError(
                f"the connection is borrowed already, at {self._borrowed_at}: pass the connection on instead of asking"
                " for another"
            )
        try:
            until = self.until()
            conn = self.conn
            if conn is not None and not await self._usable(conn, until):
                metrics.count("StaleReplaced")
                self.close()
            if self.conn is None:
                self._keep(await self._opener.open_by(until))
            else:
                metrics.recorder.reused += 1
            assert self.conn is not None
            return self._hand_out(self.conn, place)
        except BaseException:
            self._borrowed.release()
            raise

    def give_back(self) -> bool:
        """The borrower is done.

        Returns: False if `give_back_cleaned` has to be waited for: outside invocations each use is one of its own.
        """
        self._last_used = time.time()
        if self.deadline is None and not self._is_clean():
            return False
        self._release()
        return True

    async def give_back_cleaned(self) -> None:
        """Restore the connection or close it, write metrics, and only then let others have it."""
        try:
            await self._clean()
        finally:
            self._release()

    def _release(self) -> None:
        # A block that outlives its invocation has lost the connection already.
        if self._borrowed.locked():
            self._borrowed.release()

    def notice(self, error: BaseException) -> None:
        """Learn from what ended a borrower's block."""
        if isinstance(error, psycopg.Error) and error.sqlstate == retry.READ_ONLY and self.conn is not None:
            self.conn.unwritable = self.conn.read_only is not True

    def close(self) -> None:
        """Close the connection, if there is one. The next use opens another."""
        conn, self.conn = self.conn, None
        if conn is not None:
            checking.close(conn)

    def forked(self) -> None:
        """This is a child process now: the connection is the parent's, and so is whoever had borrowed it."""
        self._borrowed = threading.Lock()
        conn, self.conn = self.conn, None
        if conn is not None:
            conn.inherited = True
            checking.abandon_inherited(conn)

    async def open_at_init(self) -> None:
        """Try once to connect, for `init_timeout` seconds; a failure is logged and left to the first use."""
        if self.conn is not None:
            return
        started = time.monotonic()
        try:
            self._keep(await self._opener.open_once(started + self.config.init_timeout))
        except ConfigurationError:
            raise  # no later attempt will cure it
        except (psycopg.Error, TidegateError) as error:
            logger.warning("no connection at INIT, the first use will try again: %s", error)
        else:
            metrics.duration("ColdStartConnect", time.monotonic() - started)

    def forget_logins(self) -> None:
        """After a restore from a snapshot: what was cached to log in with is old."""
        self._opener.source.forget()

    def _hand_out(self, conn: AnyConnection, place: blame.Place | None) -> AnyConnection:
        self._borrowed_at = place
        if self.deadline is not None and self.config.statement_deadline:
            conn.until = self.deadline
            conn.grace = self._grace
            conn.request = self._request
        else:
            conn.until = math.inf
        return conn

    def _keep(self, conn: AnyConnection) -> None:
        self.conn = conn
        self._last_used = time.time()

    async def _usable(self, conn: AnyConnection, until: float) -> bool:
        if conn.unwritable or not checking.is_alive(conn):
            return False
        if conn.pgconn.transaction_status != IDLE:
            return False
        if checking.idle_for(self._last_used) <= self.config.idle_check:
            return True
        return await checking.answers(conn, self.waits, min(until, time.monotonic() + PING_TIMEOUT))

    # -- transactions ----------------------------------------------------------------------------------------

    async def transaction(self, function: Callable[..., Any], args: Any, kwargs: Any, place: blame.Place | None) -> Any:
        """As `Database.transaction`, whose text is the reference."""
        until = self.until()
        attempt = 0
        while True:
            conn = self.take(place) or await self.borrow(place)
            conn.opened_at = place
            commit = committing.Commit(conn)
            try:
                return await self._run(conn, commit, function, args, kwargs)
            except psycopg.Error as error:
                self.notice(error)
                failure = error
                again = self._may_rerun(error, conn, attempt)
            finally:
                if not self.give_back():
                    await self.give_back_cleaned()
            if isinstance(failure, CommitOutcomeUnknown):
                became = await self._outcome(commit.identity, until)
                if became == committing.COMMITTED:
                    logger.info("the answer to COMMIT was lost; the transaction was committed")
                    return commit.result
                if became == committing.UNKNOWN:
                    raise failure
                lost = psycopg.errors.ConnectionFailure("the connection was lost at COMMIT; nothing was committed")
                lost.__cause__, failure = failure, lost
            elif not again:
                raise failure
            attempt += 1
            await self._pause(failure, attempt, until)

    async def _run(
        self, conn: AnyConnection, commit: committing.Commit, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        result = self.waits.result
        await result(conn.wait(committing.begin(conn)))
        conn.in_run = True
        try:
            commit.result = await result(function(conn, *args, **kwargs))
            _check_before_commit(conn)
        except BaseException as error:
            await restoring.roll_back(conn, self.waits)
            if isinstance(error, psycopg.Rollback) and error.transaction is None:
                return None
            raise
        finally:
            conn.in_run = False
        conn.ending = True
        try:
            await result(conn.wait(commit.protocol()))
        except psycopg.Error as error:
            xid = commit.identity.xid if commit.identity else None
            if unknown := unknown_outcome(error, broken=conn.broken, xid=xid):
                raise unknown from error
            await restoring.roll_back(conn, self.waits)  # of a COMMIT that was not sent
            raise
        finally:
            conn.ending = False
        return commit.result

    async def _outcome(self, identity: committing.Identity | None, until: float) -> str:
        if identity is None:
            return committing.UNKNOWN
        try:
            conn = await self.borrow(None)
        except (psycopg.Error, TidegateError):
            return committing.UNKNOWN
        try:
            conn.until = until
            return await committing.outcome(identity, conn, self.waits, until)
        finally:
            if not self.give_back():
                await self.give_back_cleaned()

    def _may_rerun(self, error: psycopg.Error, conn: AnyConnection, attempt: int) -> bool:
        if isinstance(error, TidegateError) or conn.inherited:
            return False
        if error.sqlstate == retry.READ_ONLY:
            # A standby says that it is one. Elsewhere it may be the user's own wish, so one more connection must do.
            standby = conn.pgconn.parameter_status(b"in_hot_standby") == b"on"
            return conn.unwritable and (standby or attempt == 0)
        return retry.may_rerun(error, broken=conn.broken)

    async def _pause(self, failure: psycopg.Error, attempt: int, until: float) -> None:
        """Wait before the next run. Raises: `failure`, if there must not be one."""
        pause = retry.pause_before(attempt - 1)
        if time.monotonic() + pause >= until:
            raise failure
        if refusal := self._bucket.refuse(attempt):
            failure.add_note(f"the transaction was run {attempt} times; {refusal}")
            raise failure
        metrics.count("Retry", reason=failure.sqlstate or "connection lost")
        logger.info("transaction runs again after SQLSTATE %s", failure.sqlstate)
        await self.waits.sleep(pause)


def _request(request_id: object) -> bytes:
    """As Guarded.request has it. It gets into a comment: nothing that could end one does, and nothing long."""
    if not isinstance(request_id, str) or len(request_id) > 64 or not request_id.isascii():
        return b""
    return b",request_id=%b" % request_id.encode() if request_id.replace("-", "").isalnum() else b""


def _check_before_commit(conn: AnyConnection) -> None:
    status = conn.pgconn.transaction_status
    if status == INERROR:
        # COMMIT would answer ROLLBACK here, without an error.
        raise psycopg.errors.InFailedSqlTransaction(
            "the function caught a database error and went on: nothing can be committed after it;"
            " use conn.transaction() around a statement that may fail"
        )
    if status == IDLE:
        raise TidegateError("the function ended its transaction itself; leave COMMIT and ROLLBACK to transaction()")
    require_alive(conn)
