"""The database as a function sees it: one connection per execution environment, checked, cleaned, kept."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from . import checking, retry
from .config import Config
from .errors import CommitOutcomeUnknown, TidegateError
from .opening import Connection, open_by, open_once

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")
C = TypeVar("C")

PING_TIMEOUT = 2.0
"""Seconds after which a server that does not answer a ping counts as gone."""

logger = logging.getLogger("tidegate")


class Database:
    """One PostgreSQL connection, opened once and reused. Made by `tidegate.connect`.

    Every wait for a connection is bounded by the invocation's deadline. A statement that is running is not:
    it ends when PostgreSQL ends it, so set `statement_timeout` on the role where that matters.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._conn: Connection | None = None
        self._pid = os.getpid()
        self._last_used = 0.0
        self._deadline: float | None = None
        self._borrowed = threading.Lock()

    def __repr__(self) -> str:
        state = "not connected" if self._conn is None else "connected"
        config = self.config
        return f"<tidegate.Database {config.user}@{config.host}:{config.port}/{config.dbname} {state}>"

    # -- invocations -----------------------------------------------------------------------------------------

    def handler(self, function: Callable[[E, C], R]) -> Callable[[E, C], R]:
        """Decorate a Lambda handler: its context gives the deadline; the connection is cleaned afterwards."""

        @functools.wraps(function)
        def wrapper(event: E, context: C) -> R:
            with self.invocation(context):
                return function(event, context)

        return wrapper

    @contextmanager
    def invocation(self, context: object = None) -> Iterator[None]:
        """What `handler` does, for code that cannot be decorated. Inside another invocation it does nothing.

        Parameters: `context`, Lambda's context object; anything without `get_remaining_time_in_millis` means
        `default_timeout` seconds.
        """
        if self._deadline is not None:
            yield
            return
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        if remaining is None:
            self._deadline = time.monotonic() + self.config.default_timeout
        else:
            self._deadline = time.monotonic() + remaining() / 1000 - self.config.margin
        try:
            yield
        finally:
            self._deadline = None
            self._clean_up()

    # -- connections -----------------------------------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Borrow the connection: commits at the end of the block, or rolls back if it raises, and stays open.

        Returns: a psycopg.Connection that is alive and in no transaction.
        Raises: DeadlineExceeded; CommitOutcomeUnknown; psycopg.OperationalError at once where connecting
        cannot succeed; TidegateError if it is borrowed already, since two users of one connection would share
        a transaction.
        """
        conn = self._borrow(self._until())
        try:
            try:
                yield conn
            except BaseException:
                _roll_back(conn)
                raise
            _commit(conn)
        finally:
            self._give_back()

    def transaction(self, function: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(conn, *args, **kwargs)` in a transaction, and run it again where that is safe.

        It is run again, as a whole, after a serialization failure or deadlock (40001, 40P01), when the server
        is full or going down (53300, 57P0x), and when the connection was lost before COMMIT was sent; with
        pauses, until the deadline. So it must have no effect but through `conn`, and must not end the
        transaction itself.

        Returns: what the function returned in the run that committed.
        Raises: CommitOutcomeUnknown when the answer to COMMIT was lost; DeadlineExceeded; the function's own
        exception; the last psycopg.Error when the deadline leaves no time for another run.
        """
        until = self._until()
        attempt = 0
        while True:
            conn = self._borrow(until)
            try:
                return _run(conn, function, *args, **kwargs)
            except TidegateError:
                raise
            except psycopg.Error as error:
                pause = retry.pause_before(attempt)
                if not retry.may_rerun(error, broken=conn.broken) or time.monotonic() + pause >= until:
                    raise
                logger.info("transaction runs again after SQLSTATE %s", error.sqlstate)
            finally:
                self._give_back()
            time.sleep(pause)
            attempt += 1

    def close(self) -> None:
        """Close the connection, if there is one. The next use opens another."""
        conn, self._conn = self._conn, None
        if conn is not None:
            if self._pid == os.getpid():
                checking.close(conn)
            else:
                checking.abandon_inherited(conn)

    def open_at_init(self) -> None:
        """Try once to connect, for `init_timeout` seconds; a failure is logged and left to the first use."""
        try:
            self._keep(open_once(self.config, time.monotonic() + self.config.init_timeout))
        except psycopg.Error as error:
            logger.warning("no connection at INIT, the first use will try again: %s", error)

    # -- mechanics -------------------------------------------------------------------------------------------

    def _until(self) -> float:
        if self._deadline is not None:
            return self._deadline
        return time.monotonic() + self.config.default_timeout

    def _keep(self, conn: Connection) -> Connection:
        self._conn = conn
        self._pid = os.getpid()
        self._last_used = time.time()
        return conn

    def _borrow(self, until: float) -> Connection:
        if not self._borrowed.acquire(blocking=False):
            raise TidegateError(
                "the connection is borrowed already: pass the connection on instead of asking for another"
            )
        try:
            if self._conn is not None and not self._usable(self._conn, until):
                self.close()
            return self._conn or self._keep(open_by(self.config, until))
        except BaseException:
            self._borrowed.release()
            raise

    def _give_back(self) -> None:
        self._last_used = time.time()
        if self._borrowed.locked():
            self._borrowed.release()
        if self._deadline is None:
            self._clean_up()

    def _usable(self, conn: Connection, until: float) -> bool:
        if self._pid != os.getpid() or not checking.is_alive(conn):
            return False
        if conn.pgconn.transaction_status != TransactionStatus.IDLE:
            return False
        if checking.idle_for(self._last_used) <= self.config.idle_check:
            return True
        return checking.answers(conn, min(until, time.monotonic() + PING_TIMEOUT))

    def _clean_up(self) -> None:
        if self._borrowed.locked():
            logger.warning("the invocation ended inside a connection() block; the block should end before it")
            self._borrowed.release()
        conn = self._conn
        if conn is None or self._pid != os.getpid():
            return
        if conn.closed or not _restore(conn):
            self.close()


def _restore(conn: Connection) -> bool:
    """Bring a connection back to how it was opened. Returns: whether that could be done; if not, close it."""
    if conn.pgconn.pipeline_status != PipelineStatus.OFF:
        logger.warning("the connection was left in pipeline mode; it is replaced")
        return False
    status = TransactionStatus(conn.pgconn.transaction_status)
    if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        logger.warning("the connection was left in a transaction; its work is rolled back")
        if not _roll_back(conn):
            return False
    elif status != TransactionStatus.IDLE:
        logger.warning("the connection was left in state %s; it is replaced", status.name)
        return False
    if conn.autocommit:
        conn.autocommit = False
    if conn.isolation_level is not None:
        conn.isolation_level = None
    if conn.read_only is not None:
        conn.read_only = None
    if conn.deferrable is not None:
        conn.deferrable = None
    conn.row_factory = psycopg.rows.tuple_row
    conn.cursor_factory = psycopg.Cursor
    return True


def _run(
    conn: Connection, function: Callable[Concatenate[Connection, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    committing = False
    result: Any = None  # stays so if the function raises psycopg.Rollback, which ends the block quietly
    try:
        # psycopg refuses commit() and rollback() inside this block, so a run is committed here or nowhere.
        with conn.transaction():
            result = function(conn, *args, **kwargs)
            _check_before_commit(conn)
            committing = True
    except psycopg.Error as error:
        if committing and retry.commit_outcome_unknown(error, broken=conn.broken):
            raise _unknown(error) from error
        raise
    return result  # type: ignore[no-any-return]


def _check_before_commit(conn: Connection) -> None:
    status = conn.pgconn.transaction_status
    if status == TransactionStatus.INERROR:
        # COMMIT would answer ROLLBACK here, without an error.
        raise psycopg.errors.InFailedSqlTransaction(
            "the function caught a database error and went on: nothing can be committed after it;"
            " use conn.transaction() around a statement that may fail"
        )
    if status == TransactionStatus.IDLE:
        raise TidegateError("the function ended its transaction itself; leave COMMIT and ROLLBACK to transaction()")
    if not checking.is_alive(conn):
        raise psycopg.errors.ConnectionFailure("the connection was lost before COMMIT was sent; nothing was committed")


def _commit(conn: Connection) -> None:
    if conn.closed:
        return  # as psycopg's own context manager: whatever lost it has been raised already
    if conn.pgconn.transaction_status == TransactionStatus.INTRANS and not checking.is_alive(conn):
        raise psycopg.errors.ConnectionFailure("the connection was lost before COMMIT was sent; nothing was committed")
    try:
        conn.commit()
    except psycopg.Error as error:
        if retry.commit_outcome_unknown(error, broken=conn.broken):
            raise _unknown(error) from error
        raise


def _roll_back(conn: Connection) -> bool:
    if conn.closed:
        return False
    try:
        conn.rollback()
    except psycopg.Error as error:
        logger.warning("the connection is replaced, its rollback failed: %s", error)
        checking.close(conn)
        return False
    return True


def _unknown(error: psycopg.Error) -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(f"the connection was lost at COMMIT, which may or may not have taken effect: {error}")
