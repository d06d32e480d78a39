"""Clients that write as fast as they can through an outage, and that know afterwards what became of each transaction.

Each transaction stores one row that no other one stores. What its client has seen decides what must be in the table:
acknowledged, exactly once; failed before its COMMIT was sent, not at all; failed at the COMMIT, or as a statement of
its own, at most once.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.support.asyncclient import AsyncClient

from tidegate_load.postgres import EmbeddedPostgres

TABLE = "CREATE TABLE written (client text, n int)"

Key = tuple[str, int]


class Fate(Enum):
    """What a client knows of one of its transactions."""

    ACKNOWLEDGED = auto()
    FAILED = auto()
    UNKNOWN = auto()


@dataclass
class Record:
    """What a group of clients has seen.

    - `fates`: of each transaction. `errors`: how often each SQLSTATE came.
    - `lost`: connections that ended. `logins`: successful ones.
    - `acknowledged_at`: monotonic time in seconds of each acknowledged commit, by client.
    """

    fates: dict[Key, Fate] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    hints: set[str] = field(default_factory=set)
    lost: int = 0
    logins: int = 0
    acknowledged_at: dict[str, list[float]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Transactions that were not acknowledged."""
        return sum(fate is not Fate.ACKNOWLEDGED for fate in self.fates.values())

    def downtime(self, since: float) -> list[float]:
        """Seconds from `since` to each client's first acknowledged commit after it, sorted; those without one are left
        out."""
        firsts = [min((t for t in times if t > since), default=None) for times in self.acknowledged_at.values()]
        return sorted(first - since for first in firsts if first is not None)


class Writers:
    """Clients that write until `stop()`.

    Parameters: `connect`, makes a connection; `names`, of the clients: those whose name ends in "s" send single
    statements, the others BEGIN, INSERT and COMMIT; `reconnect`, whether a connection that is lost is made anew.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[AsyncClient]], names: list[str], *, reconnect: bool = False
    ) -> None:
        self.record = Record()
        self._connect = connect
        self._names = names
        self._reconnect = reconnect
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect all, then begin to write."""
        clients = await asyncio.gather(*(self._connect() for _ in self._names))
        self.record.logins = len(clients)
        self._tasks = [
            asyncio.create_task(self._write(name, client)) for name, client in zip(self._names, clients, strict=True)
        ]

    async def all_wrote_after(self, since: float, timeout: float = 60) -> None:  # noqa: ASYNC109
        """Wait until each has had a commit acknowledged after this monotonic time."""
        deadline = time.monotonic() + timeout
        while len(self.record.downtime(since)) < len(self._names):
            assert time.monotonic() < deadline, f"some clients do not get on: {self.record.errors}"
            assert not any(task.done() for task in self._tasks), [task for task in self._tasks if task.done()]
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Let each finish what it does."""
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def _write(self, name: str, client: AsyncClient) -> None:
        times = self.record.acknowledged_at.setdefault(name, [])
        n = 0
        while not self._stopping:
            n += 1
            self.record.fates[name, n] = Fate.UNKNOWN
            try:
                fate = await self._transaction(client, name, n)
            except (OSError, EOFError):
                client.close()
                self.record.lost += 1
                if not self._reconnect:
                    return
                client = await self._again()
                continue
            self.record.fates[name, n] = fate
            if fate is Fate.ACKNOWLEDGED:
                times.append(time.monotonic())
            # Thousands of transactions in a second would tell no more.
            await asyncio.sleep(0.02)
        client.close()

    async def _transaction(self, client: AsyncClient, name: str, n: int) -> Fate:
        insert = f"INSERT INTO written VALUES ('{name}', {n})"
        if name.endswith("s"):
            return Fate.ACKNOWLEDGED if await self._runs(client, insert) else Fate.UNKNOWN
        for sql in ("BEGIN", insert):
            if not await self._runs(client, sql):
                # Harmless where there is no transaction.
                await client.query("ROLLBACK")
                return Fate.FAILED
        return Fate.ACKNOWLEDGED if await self._runs(client, "COMMIT") else Fate.UNKNOWN

    async def _runs(self, client: AsyncClient, sql: str) -> bool:
        answer = await client.query(sql)
        if answer.error is not None:
            self.record.errors[answer.sqlstate] += 1
            self.record.hints.add(answer.error.get("H", ""))
            return False
        # COMMIT of a transaction that has failed says ROLLBACK.
        return sql != "COMMIT" or answer.tag == "COMMIT"

    async def _again(self) -> AsyncClient:
        while True:
            try:
                client = await self._connect()
            except (OSError, EOFError):
                await asyncio.sleep(0.1)
            else:
                self.record.logins += 1
                return client


def check_books(record: Record, server: EmbeddedPostgres, dbname: str) -> None:
    """No acknowledged commit is lost, no failed one is there, none was applied twice."""
    with server.connect(dbname=dbname) as conn:
        stored = Counter((str(client), int(n)) for client, n in conn.execute("SELECT client, n FROM written"))
    lost = [key for key, fate in record.fates.items() if fate is Fate.ACKNOWLEDGED and stored[key] != 1]
    resurrected = [key for key, fate in record.fates.items() if fate is Fate.FAILED and stored[key]]
    doubled = [key for key, count in stored.items() if count > 1]
    assert (lost, resurrected, doubled) == ([], [], [])
    assert sum(fate is Fate.ACKNOWLEDGED for fate in record.fates.values()) > 0
