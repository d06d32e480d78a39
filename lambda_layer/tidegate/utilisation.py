"""Closing instead of keeping when the server runs short of connections; only where the setting `close_above` asks."""

from __future__ import annotations

import logging
import time

import psycopg

from .connection import AnyConnection
from .waits import Waits

CHECK_EVERY = 10.0
"""Seconds between questions: each one is a round trip at the end of an invocation."""

# Every user may read these, and none of them locks anything.
_QUESTION = "SELECT 100.0 * sum(numbackends) / current_setting('max_connections')::int FROM pg_catalog.pg_stat_database"

logger = logging.getLogger("tidegate")


class Watch:
    """When to ask how full the server is, and whether that is too much."""

    def __init__(self, limit: float | None) -> None:
        """Parameters: `limit`, percent of `max_connections`; None never to ask."""
        self._limit = limit
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time to ask."""
        return self._limit is not None and time.monotonic() >= self._next

    async def too_high(self, conn: AnyConnection, waits: Waits) -> bool:
        """Whether the connection should be closed now; asks on it, if that is due."""
        if not self.due() or self._limit is None:
            return False
        self._next = time.monotonic() + CHECK_EVERY
        try:
            await waits.result(conn.set_autocommit(True))
            cursor = await waits.result(conn.execute(_QUESTION, prepare=False))
            row = await waits.result(cursor.fetchone())
            await waits.result(conn.set_autocommit(False))
        except psycopg.Error as error:
            logger.warning("the connection is closed, its server did not say how full it is: %s", error.sqlstate)
            return True
        used = float(row[0])
        if used <= self._limit:
            return False
        logger.info("the connection is closed: %.0f%% of the server's connections are in use", used)
        self._next = 0.0  # the next connection's first invocation asks again
        return True
