"""Bringing a connection back to how it was opened, at the end of an invocation.

Whether there is anything to do is known without asking: psycopg's own settings, the transaction status, the parameters
that the server reports, and the texts of the statements that were executed. Only then is there a round trip.
"""

from __future__ import annotations

import logging

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from . import blame, checking, metrics
from .connection import AnyConnection, AsyncCursor, AsyncServerCursor, Connection, Cursor, ServerCursor
from .waits import Waits

# DISCARD ALL would also take away the statements that psycopg has prepared and goes on using.
_RESET = (
    "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all();"
    " DISCARD TEMP; DISCARD SEQUENCES"
)

IDLE = TransactionStatus.IDLE
PIPELINE_OFF = PipelineStatus.OFF
PREPARE_THRESHOLD = 5
"""psycopg's own default."""

logger = logging.getLogger("tidegate")
_named: set[str] = set()


def is_as_opened(conn: AnyConnection) -> bool:
    """Whether nothing is known to be left in the session; costs no round trip."""
    pgconn = conn.pgconn
    return (
        conn.changed_at is None
        and not conn.unwritable
        and pgconn.transaction_status == IDLE
        and pgconn.pipeline_status == PIPELINE_OFF
        and not conn.autocommit
        and conn.isolation_level is None
        and conn.read_only is None
        and conn.deferrable is None
        and conn.row_factory is tuple_row
        and not conn.unwatched()
        and conn.server_cursor_factory in (ServerCursor, AsyncServerCursor)
        and conn.prepare_threshold == PREPARE_THRESHOLD
        and conn.reported() == conn.baseline
    )


async def restore(conn: AnyConnection, waits: Waits, borrowed_at: blame.Place | None) -> bool:
    """Undo what an invocation left.

    Parameters: `borrowed_at`, the line that asked for the connection.
    Returns: whether that could be done; if not, the connection must be closed.
    """
    if conn.pgconn.pipeline_status != PIPELINE_OFF:
        logger.warning("the connection was left in pipeline mode: %s; it is replaced", borrowed_at)
        return False
    if conn.unwritable:
        logger.info("the server refused to write, perhaps after a failover: the connection is replaced")
        return False
    status = TransactionStatus(conn.pgconn.transaction_status)
    if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        metrics.count("LeakedTransaction")
        logger.warning(
            "the connection was left in a transaction, begun at %s; its work is rolled back",
            conn.opened_at or borrowed_at,
        )
        if not await roll_back(conn, waits):
            return False
    elif status != IDLE:
        logger.warning("the connection was left in state %s: %s; it is replaced", status.name, borrowed_at)
        return False
    if not await _reset_session(conn, waits, borrowed_at):
        return False
    await _reset_psycopg(conn, waits)
    return True


async def roll_back(conn: AnyConnection, waits: Waits) -> bool:
    """Returns: whether the transaction is over and the connection still good."""
    if conn.closed:
        return False
    conn.in_run = False
    try:
        await waits.result(conn.rollback())
    except psycopg.Error as error:
        logger.warning("the connection is replaced, its rollback failed: SQLSTATE %s", error.sqlstate)
        checking.close(conn)
        return False
    return True


async def _reset_session(conn: AnyConnection, waits: Waits, borrowed_at: blame.Place | None) -> bool:
    # Statements of another class of cursors have not been seen.
    unseen = conn.unwatched()
    reported = conn.reported() != conn.baseline
    if conn.changed_at is None and not unseen and not reported:
        return True
    if conn.changed_at is not None or reported:
        _name_once(conn.changed_at or borrowed_at)
    if conn.lasting:
        return False
    try:
        conn.cursor_factory = Cursor if isinstance(conn, Connection) else AsyncCursor
        if not conn.autocommit:
            await waits.result(conn.set_autocommit(True))
        # One Query message with several statements: one round trip.
        await waits.result(conn.execute(_RESET, prepare=False))
    except psycopg.Error as error:
        logger.warning("the connection is replaced, its session could not be reset: SQLSTATE %s", error.sqlstate)
        return False
    conn.changed_at = None
    conn.baseline = conn.reported()
    return True


def _name_once(place: blame.Place | None) -> None:
    if str(place) not in _named:
        _named.add(str(place))
        logger.warning(
            "the session was changed, as it seems, at %s: it is reset at the end of each invocation"
            " (said once for each line; SET LOCAL lasts for a transaction and needs no reset)",
            place,
        )


async def _reset_psycopg(conn: AnyConnection, waits: Waits) -> None:
    if conn.autocommit:
        await waits.result(conn.set_autocommit(False))
    if conn.isolation_level is not None:
        await waits.result(conn.set_isolation_level(None))
    if conn.read_only is not None:
        await waits.result(conn.set_read_only(None))
    if conn.deferrable is not None:
        await waits.result(conn.set_deferrable(None))
    if conn.prepare_threshold != PREPARE_THRESHOLD:
        conn.prepare_threshold = PREPARE_THRESHOLD
    conn.row_factory = tuple_row
    if isinstance(conn, Connection):
        conn.cursor_factory, conn.server_cursor_factory = Cursor, ServerCursor
    else:
        conn.cursor_factory, conn.server_cursor_factory = AsyncCursor, AsyncServerCursor
