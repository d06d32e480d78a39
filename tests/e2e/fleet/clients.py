"""Clients that keep a proxy busy, and an observer who counts server connections on PostgreSQL itself."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psycopg
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess

from tidegate_proxy.fleet.name import parse_name
from tidegate_proxy.fleet.planner import Member


class Clients:
    """Clients of one proxy, each of which asks again as soon as it is answered.

    Parameters: `count`; `seconds`, how long a query takes on the server.
    """

    def __init__(self, proxy: ProxyProcess, count: int, seconds: float = 0.05) -> None:
        self.errors: list[Exception] = []
        self.answered = 0
        self._proxy = proxy
        self._seconds = seconds
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            with self._proxy.connect(prepare_threshold=None) as conn:
                while not self._stopped.is_set():
                    conn.execute(f"SELECT pg_sleep({self._seconds})")
                    self.answered += 1
        except psycopg.Error as error:
            self.errors.append(error)

    def stop(self) -> None:
        """Let each end with its present query."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@dataclass
class Observer:
    """Counts the server connections of the database's user 20 times a second, control connections included."""

    database: Database
    counts: list[int] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    _error: list[BaseException] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(60)
        assert not self._error, self._error

    def _run(self) -> None:
        try:
            with self.database.server.connect() as conn:
                while not self._stopped.is_set():
                    rows = conn.execute(
                        "SELECT application_name FROM pg_stat_activity WHERE usename = %s", [self.database.user]
                    ).fetchall()
                    members = [member for (name,) in rows if (member := parse_name(name)) is not None]
                    self.members = {member.id: member for member in members}
                    self.counts.append(len(rows))
                    time.sleep(0.05)
        except BaseException as error:
            self._error.append(error)

    @property
    def now(self) -> int:
        """How many there were when it looked last."""
        return self.counts[-1] if self.counts else 0
