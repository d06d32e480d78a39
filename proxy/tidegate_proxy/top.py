"""`tidegate-proxy top`: what a proxy does, read from its console and shown again and again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate_proxy.console.pools import POOLS_COLUMNS
from tidegate_proxy.core.borrowing import Borrowing
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.credentials.provider import FixedCredential
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.metrics.counts import CONSOLE
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.protocol import decode
from tidegate_proxy.settings import DatabaseSettings
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.tls import ServerContexts

TIMEOUT = 10.0
"""Seconds in which the console must answer."""


class _Owner(Borrowing):
    """Of a connection that goes to no pool."""

    def server_released(self, server: ServerConnection) -> None:
        """Nothing to do."""

    def read_only_seen(self, server: ServerConnection) -> None:
        """Nothing to do."""

    def server_lost(self, server: ServerConnection) -> None:
        """Whoever waits for an answer is told by the connection."""


class ConsoleClient:
    """A connection to a proxy's console. Parameters: where it is, and who logs in."""

    def __init__(self, address: DatabaseSettings, user: str, password: str | None) -> None:
        self._address = address
        self._login = FixedCredential(user, password)
        self._contexts = ServerContexts()
        self._server: ServerConnection | None = None

    async def show(self, word: str) -> list[list[str | None]]:
        """Rows of one SHOW; connects if need be. Raises: ProxyError."""
        if self._server is None or self._server.closing:
            connector = Connector(
                self._address,
                tls=lambda: self._contexts.of(self._address),
                credentials=self._login,
                resolver=Resolver(),
                timeout=TIMEOUT,
                user_timeout=TIMEOUT,
            )
            self._server, _ = await connector.connect(_Owner(), Place(Endpoint(self._address.host, self._address.port)))
        try:
            async with asyncio.timeout(TIMEOUT):
                result = await self._server.run(f"SHOW {word}")
        except TimeoutError:
            self.close()
            raise ProxyError(f"the proxy's console did not answer within {TIMEOUT:g} s") from None
        if result.error is not None:
            raise decode.error_from_fields(result.error)
        return [[None if value is None else value.decode() for value in row] for row in result.rows]

    def close(self) -> None:
        """Close it."""
        if self._server is not None and not self._server.closing:
            self._server.close()


@dataclass(frozen=True)
class Snapshot:
    """What the console has told at one moment; `moment` in seconds of the monotonic clock."""

    moment: float
    version: str
    pools: list[dict[str, str | None]]
    transactions: dict[str, int]
    requests: dict[str, int]
    latencies: list[list[str | None]]
    pins: list[list[str | None]]


async def look(client: ConsoleClient) -> Snapshot:
    """Ask the console. Raises: ProxyError."""
    version = await client.show("VERSION")
    pools = [dict(zip(POOLS_COLUMNS, row, strict=True)) for row in await client.show("POOLS")]
    totals = await client.show("STATS_TOTALS")
    return Snapshot(
        time.monotonic(),
        version[0][0] or "",
        [pool for pool in pools if pool["database"] != CONSOLE],
        # Their places in the console's table: after the database, assignments come first.
        {row[0] or "": int(row[2] or 0) for row in totals},
        {row[0] or "": int(row[3] or 0) for row in totals},
        await client.show("LATENCIES"),
        await client.show("PINS"),
    )


def render(now: Snapshot, before: Snapshot | None, where: str) -> RenderableType:
    """A screen. Rates are those since `before`."""
    clients = sum(int(pool["cl_active"] or 0) + int(pool["cl_waiting"] or 0) for pool in now.pools)
    waiting = sum(int(pool["cl_waiting"] or 0) for pool in now.pools)
    title = Text(f"{now.version} at {where}: {clients} clients, {waiting} waiting", style="bold")
    return Group(title, _pools(now), _databases(now, before), _pins(now))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    return table


def _pools(now: Snapshot) -> Table:
    table = _table(
        "Pools",
        *(
            "database",
            "user",
            "mode",
            "clients",
            "waiting",
            "longest wait",
            "pinned",
            "servers",
            "borrowed",
            "idle",
            "size",
        ),
    )
    for pool in sorted(now.pools, key=lambda pool: (-int(pool["cl_waiting"] or 0), str(pool["database"]))):
        number = {name: int(value or 0) for name, value in pool.items() if name.startswith(("cl_", "sv_", "maxwait"))}
        waited = number["maxwait"] + number["maxwait_us"] / 1e6
        servers = sum(number[name] for name in ("sv_active", "sv_idle", "sv_tested", "sv_login", "sv_being_canceled"))
        table.add_row(
            pool["database"],
            pool["user"],
            pool["pool_mode"],
            str(number["cl_active"] + number["cl_waiting"]),
            Text(str(number["cl_waiting"]), style="red" if number["cl_waiting"] else ""),
            f"{waited:.1f} s" if waited else "",
            Text(str(number["cl_pinned"]), style="yellow" if number["cl_pinned"] else ""),
            str(servers),
            str(number["sv_active"]),
            str(number["sv_idle"]),
            pool["pool_size"],
        )
    return table


def _databases(now: Snapshot, before: Snapshot | None) -> Table:
    table = _table(
        "Databases: per second since the last look; latencies over the latest stats_period",
        *("database", "", "transactions/s", "requests/s", "p50", "p90", "p99", "longest"),
    )
    for database in sorted(now.transactions.keys() - {CONSOLE}):
        rates = ("", "")
        if before is not None:
            elapsed = now.moment - before.moment
            rates = (
                f"{(now.transactions[database] - before.transactions.get(database, 0)) / elapsed:,.0f}",
                f"{(now.requests[database] - before.requests.get(database, 0)) / elapsed:,.0f}",
            )
        of_database = [row for row in now.latencies if row[0] == database]
        for row in of_database:
            first = row is of_database[0]
            table.add_row(database if first else "", row[1], *(rates if first else ("", "")), *map(_duration, row[3:]))
    return table


def _duration(microseconds: str | None) -> str:
    if microseconds is None:
        return ""
    value = int(microseconds)
    if value < 1000:
        return f"{value} µs"
    return f"{value / 1000:.1f} ms" if value < 1_000_000 else f"{value / 1_000_000:.2f} s"


def _pins(now: Snapshot) -> RenderableType:
    if not now.pins:
        return Text("Nobody has been pinned.")
    table = _table("Pins", "database", "user", "reason", "clients now", "in all")
    for row in now.pins:
        table.add_row(*row)
    return table


async def once(client: ConsoleClient, where: str, terminal: Terminal) -> None:
    """Show it once. Raises: ProxyError."""
    try:
        terminal.print(render(await look(client), None, where))
    finally:
        client.close()


async def watch(client: ConsoleClient, where: str, terminal: Terminal, interval: float) -> None:
    """Show it every `interval` seconds until cancelled; while the proxy is away, that is what is shown.

    Raises: ProxyError when not even the first look succeeds.
    """
    before = await look(client)
    with Live(render(before, None, where), console=terminal, screen=terminal.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                live.refresh()
                await asyncio.sleep(interval)
                try:
                    now = await look(client)
                except ProxyError as error:
                    live.update(Group(Text(str(error), style="red"), render(before, None, where)))
                    continue
                live.update(render(now, before, where))
                before = now
        finally:
            with contextlib.suppress(ProxyError):
                client.close()
