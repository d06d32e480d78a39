"""Is a connection that has been idle still good? Without a round trip, and with one."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from .connection import AnyConnection
    from .waits import Waits

BaseConnection = psycopg.BaseConnection[Any]


def is_alive(conn: AnyConnection) -> bool:
    """Whether the server still holds this connection open, as far as this side can know without asking.

    Returns: False once the server has closed the connection or announced that it does. Notices, notifications
    and changed parameters that came meanwhile are taken in, and reach psycopg's handlers; they are no reason
    for concern.
    """
    pgconn = conn.pgconn
    if pgconn.status != pq.ConnStatus.OK:
        return False
    poller = conn.poller
    if not poller.poll(0):
        return True
    # A FATAL error that comes while nothing was asked is handed out by libpq as if it were a notice.
    severities: list[str | None] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        severities.append(diagnostic.severity_nonlocalized)

    conn.add_notice_handler(note)
    try:
        while poller.poll(0):
            pgconn.consume_input()
            pgconn.is_busy()  # parses what was read
    except psycopg.OperationalError:
        return False
    finally:
        conn.remove_notice_handler(note)
    return "FATAL" not in severities and "PANIC" not in severities


async def answers(conn: BaseConnection, waits: Waits, until: float) -> bool:
    """Whether the server answers an empty query in time; the connection must be idle.

    Parameters: `until`, a time on time.monotonic()'s clock.
    Returns: False if it did not, and then the connection is good for nothing but closing.
    """
    pgconn = conn.pgconn
    try:
        pgconn.send_query(b"")
        while pgconn.flush():
            if not await waits.ready(pgconn.socket, select.POLLOUT, until):
                return False
        while True:
            while pgconn.is_busy():
                if not await waits.ready(pgconn.socket, select.POLLIN, until):
                    return False
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return pgconn.status == pq.ConnStatus.OK
            if result.status == pq.ExecStatus.FATAL_ERROR:
                return False
    except psycopg.OperationalError:
        return False


def close(conn: BaseConnection) -> None:
    """Close a connection that this process opened, dead or alive; never raises, never waits."""
    # libpq's goodbye, on a socket that does not block. psycopg's own close does the same, and must be awaited where
    # the connection is asyncio's.
    conn.pgconn.finish()


def abandon_inherited(conn: BaseConnection) -> None:
    """Give up a connection that a parent process opened, so that nothing at all is sent on it.

    A polite close would end the parent's session, and with TLS any byte would break its encryption. So this
    process's descriptor is pointed elsewhere before libpq says its goodbye to it.
    """
    if conn.closed:
        return
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, conn.pgconn.socket, inheritable=False)
    os.close(null)
    close(conn)


def idle_for(since: float) -> float:
    """Seconds since a time on time.time()'s clock: the wall clock, because the monotonic one may stand still
    while Lambda has the environment frozen. A clock that was set back counts as a long time.
    """
    seconds = time.time() - since
    return seconds if seconds >= 0 else float("inf")
