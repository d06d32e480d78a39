"""Samples who is connected to a database, several times a second, from `pg_stat_activity`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import psycopg

from tidegate_load.spike.recording import ConnectionSample

SAMPLER = "tidegate-spike"
"""Application name of the sampler's own connection, which is counted like everyone else's."""

# A backend that has not yet authenticated has no role, but holds one of the slots.
_QUERY = """
    SELECT coalesce(usename, 'logging in') || '/' || coalesce(nullif(application_name, ''), '-'), count(*)
    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1
"""


class ConnectionSampler:
    """One connection, held from the start so that it is not crowded out, and a thread that samples through it.

    Parameters: `parameters`, keyword arguments for `psycopg.connect` (a superuser or a member of pg_monitor; from
    others pg_stat_activity hides what it shows); `interval`, seconds between samples.
    Raises: psycopg.Error from `start` if the database cannot be reached.
    """

    def __init__(self, parameters: Mapping[str, Any], interval: float = 0.2) -> None:
        self._parameters = dict(parameters)
        self._interval = interval
        self._conn: psycopg.Connection[tuple[Any, ...]] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._samples: list[ConnectionSample] = []
        self.max_connections = 0
        self.error: psycopg.Error | None = None
        """Why sampling ended early; None while it works."""

    def start(self) -> Self:
        """Connect, take the first sample, and keep sampling in a thread."""
        self._conn = psycopg.connect(**self._parameters, autocommit=True, application_name=SAMPLER, connect_timeout=10)
        row = self._conn.execute("SELECT current_setting('max_connections')::int").fetchone()
        assert row is not None
        self.max_connections = row[0]
        self._sample()
        self._thread = threading.Thread(target=self._run, name="connection-sampler", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop sampling and disconnect. Safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def last(self) -> ConnectionSample:
        """The newest sample."""
        with self._lock:
            return self._samples[-1]

    def since(self, moment: float) -> list[ConnectionSample]:
        """Samples taken at or after a Unix time in seconds."""
        with self._lock:
            return [sample for sample in self._samples if sample.time >= moment]

    def _sample(self) -> None:
        assert self._conn is not None
        by_owner = dict(self._conn.execute(_QUERY).fetchall())
        with self._lock:
            self._samples.append(ConnectionSample(time.time(), sum(by_owner.values()), by_owner))

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._sample()
            except psycopg.Error as error:
                self.error = error
                return
