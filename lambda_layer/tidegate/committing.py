"""BEGIN and COMMIT of `transaction()`, and what became of a COMMIT whose answer was lost.

Along with COMMIT, in the same write, the server is asked for the transaction's identifier, and told to send that answer
before it commits. If the connection is lost while it does, the identifier is known, and another connection can
ask what became of it. No round trip is added.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import psycopg
from psycopg.errors import error_from_result
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from .connection import AnyConnection
from .deadline import Protocol
from .waits import Waits

# The server's start time tells servers apart: on another one, or after a promotion, the identifier may be anyone's.
_QUESTION = b"SELECT pg_current_xact_id_if_assigned(), extract(epoch FROM pg_postmaster_start_time())"
_SINCE = 130000
"""The first server version that has these functions."""

_STATUS = b"""
SELECT pg_xact_status($1::xid8), extract(epoch FROM pg_postmaster_start_time())::text = $2"""

# The very session that the answer was lost from, found by what nobody else can have. It may sit there for hours where
# the network swallowed its end, and until it ends the outcome is open.
_END_LOST_SESSION = b"""
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_xid = $1::xid8::xid AND datname = current_database() AND usename = current_user"""

PATIENCE = 0.5
"""Seconds that the lost session is left to end by itself."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5

COMMITTED, NOT_COMMITTED, UNKNOWN = "committed", "not committed", "unknown"

logger = logging.getLogger("tidegate")


class Identity(NamedTuple):
    """A transaction: `xid`, its identifier, None if it wrote nothing; `server`, the start time of its server."""

    xid: int | None
    server: bytes


class Commit:
    """One COMMIT. `identity` is None until that answer has come; `result` is what the function returned."""

    def __init__(self, conn: AnyConnection) -> None:
        self.identity: Identity | None = None
        self.result: Any = None
        self._conn = conn

    def protocol(self) -> Protocol[None]:
        """psycopg's kind of protocol code, for the connection's `wait`. Raises: psycopg.Error."""
        conn, pgconn = self._conn, self._conn.pgconn
        # Where nothing was written there is nothing to find out, and the question would be the dearest part of it.
        if not (conn.wrote or conn.unwatched()) or pgconn.server_version < _SINCE:
            pgconn.send_query(b"COMMIT")
            _require_success((yield from execute(pgconn))[-1], conn)
            return
        failed: PGresult | None = None
        pgconn.enter_pipeline_mode()
        pgconn.send_query_params(_QUESTION, None)
        pgconn.send_flush_request()
        pgconn.send_query_params(b"COMMIT", None)
        pgconn.pipeline_sync()
        yield from send(pgconn)
        results = yield from fetch_many(pgconn)
        self._take(results)
        results += yield from fetch_many(pgconn)
        results += yield from fetch_many(pgconn)
        for result in results:
            failed = failed or (result if result.status == ExecStatus.FATAL_ERROR else None)
        if failed is None and (not results or results[-1].status != ExecStatus.PIPELINE_SYNC):
            raise psycopg.errors.ConnectionFailure("the connection was lost at COMMIT")
        if not conn.broken:
            pgconn.exit_pipeline_mode()
        _require_success(failed, conn)

    def _take(self, results: list[PGresult]) -> None:
        for result in results:
            if result.status == ExecStatus.TUPLES_OK:
                xid = result.get_value(0, 0)
                self.identity = Identity(int(xid) if xid is not None else None, result.get_value(0, 1) or b"")


def begin(conn: AnyConnection) -> Protocol[None]:
    """psycopg's BEGIN, by its settings. Raises: psycopg.Error."""
    conn.pgconn.send_query(conn._get_tx_start_command())
    conn.wrote = False
    _require_success((yield from execute(conn.pgconn))[-1], conn)


def _require_success(result: PGresult | None, conn: AnyConnection) -> None:
    if result is not None and result.status == ExecStatus.FATAL_ERROR:
        raise error_from_result(result, encoding=conn.info.encoding)


async def outcome(identity: Identity, conn: AnyConnection, waits: Waits, until: float) -> str:
    """What became of a transaction whose connection was lost at COMMIT.

    Parameters: `identity`; `conn`, another connection, idle; `until`, a time on time.monotonic()'s clock.
    Returns: COMMITTED, NOT_COMMITTED, or UNKNOWN when the server is another one, or there is no answer in time.
    """
    if identity.xid is None:
        return NOT_COMMITTED  # nothing was written that could have been
    xid = str(identity.xid).encode()
    pause, patience = FIRST_PAUSE, time.monotonic() + PATIENCE
    try:
        while True:
            row = await waits.result(conn.wait(_ask(conn, _STATUS, [xid, identity.server])))
            if row is None or row[1] != b"t":
                return UNKNOWN
            if row[0] != b"in progress":
                return {b"committed": COMMITTED, b"aborted": NOT_COMMITTED}.get(row[0] or b"", UNKNOWN)
            if time.monotonic() > patience:
                patience = until
                await waits.result(conn.wait(_ask(conn, _END_LOST_SESSION, [xid])))
            if time.monotonic() + pause >= until:
                return UNKNOWN
            await waits.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)
    except psycopg.Error as error:
        logger.warning("what became of a COMMIT could not be found out: SQLSTATE %s", error.sqlstate)
        return UNKNOWN


def _ask(conn: AnyConnection, statement: bytes, values: list[bytes]) -> Protocol[list[bytes | None] | None]:
    """One statement outside any transaction; returns its first row."""
    pgconn = conn.pgconn
    pgconn.send_query_params(statement, values)
    row: list[bytes | None] | None = None
    for result in (yield from execute(pgconn)):
        _require_success(result, conn)
        if result.ntuples:
            row = [result.get_value(0, column) for column in range(result.nfields)]
    return row
