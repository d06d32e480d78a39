"""Where a driver connects to, and work that shows whether two endpoints behave alike."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

CLIENTS = 20
"""Clients at a time in the tests of concurrency."""

ROUNDS = 5
"""Transactions that each of them commits; as many are rolled back."""


@dataclass(frozen=True)
class Endpoint:
    """A fresh database, reached directly or through a proxy of its own."""

    database: Database
    proxy: ProxyProcess | None

    @property
    def parameters(self) -> dict[str, Any]:
        """host, port, dbname, user and password, as libpq names them."""
        given = self.database.parameters
        return given if self.proxy is None else given | {"host": "127.0.0.1", "port": self.proxy.port}

    @property
    def keywords(self) -> dict[str, Any]:
        """The same with `database` instead of `dbname`, as most other drivers have it."""
        parameters = dict(self.parameters)
        return {"database": parameters.pop("dbname")} | parameters

    def url(self, scheme: str) -> str:
        """The same as a URL."""
        given = self.parameters
        return (
            f"{scheme}://{given['user']}:{quote(given['password'])}@{given['host']}:{given['port']}/{given['dbname']}"
        )

    def pins(self) -> list[str]:
        """The proxy's log lines on this database's pinned clients. A direct connection has no such thing."""
        log = "" if self.proxy is None else self.proxy.log
        return [line for line in log.splitlines() if "pinned" in line and f" {self.database.name}/" in line]

    def server_connections(self) -> int:
        """How many connections to the database PostgreSQL sees, without the proxy's control connection."""
        with self.database.server.connect() as admin:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name NOT LIKE 'tidegate %%'"
            )
            row = admin.execute(query, [self.database.name]).fetchone()
        assert row is not None
        return int(row[0])

    def wait_for_sleeper(self) -> None:
        """Wait until a query in the database is in pg_sleep."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
        with self.database.server.connect() as admin:
            eventually(lambda: admin.execute(query, [self.database.name]).fetchone() == (1,), what="the sleep")


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)` to `work(CLIENTS - 1)` at the same time; the results in order."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(work, range(CLIENTS)))


CREATE_LEDGER = (
    "CREATE TABLE counter (n int NOT NULL)",
    "INSERT INTO counter VALUES (0)",
    "CREATE TABLE entries (client int, round int, PRIMARY KEY (client, round))",
)
"""Every committed round counts up and adds an entry, so that a lost or doubled one is seen."""

LEDGER_TOTALS = "SELECT (SELECT n FROM counter), count(*), count(DISTINCT client) FROM entries"
FULL_LEDGER = (CLIENTS * ROUNDS, CLIENTS * ROUNDS, CLIENTS)
