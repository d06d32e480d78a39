"""What PgBouncer has no word for: SHOW PINS, BORROWS and PREPARED_STATEMENTS."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tidegate_proxy.console.sockets import pointer
from tidegate_proxy.console.table import Row, Table, int4, int8, text
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.fingerprint import normalized

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.proxy import Proxy

_SHOWN = 2000
"""Characters of a statement that are shown."""


def pins(proxy: Proxy) -> Table:
    """How often clients were pinned since the pool began, and how many are now, by pool and reason."""
    now: dict[tuple[str, str, str], int] = {}
    for client in proxy.clients:
        pool = proxy.pool_of(client)
        for reason in client.session.pins:
            key = (pool.database, pool.user, reason)
            now[key] = now.get(key, 0) + 1
    rows: list[Row] = [
        (pool.database, pool.user, reason, now.get((pool.database, pool.user, reason), 0), count)
        for pool in proxy.pools
        for reason, count in sorted(pool.counts.pins.items())
    ]
    return Table(text("database", "user", "reason") + int4("clients") + int8("total"), rows)


def borrows(proxy: Proxy) -> Table:
    """Clients that wait for a server connection, in the order in which they will get one."""
    columns = (
        text("database", "user")
        + int4("position", "wait", "wait_us", "timeout_in")
        + text("application_name", "ptr")
        + int4("id")
    )
    now = time.monotonic()
    rows: list[Row] = []
    for pool in proxy.pools:
        for position, (waiter, (since, ends)) in enumerate(pool.waiting.items(), 1):
            waited = max(0.0, now - since)
            client = waiter if isinstance(waiter, ClientConnection) else None
            rows.append(
                (
                    pool.database,
                    pool.user,
                    position,
                    int(waited),
                    int(waited % 1 * 1e6),
                    max(0, round(ends - now)),
                    client.session.parameters.get("application_name", "") if client is not None else None,
                    pointer(waiter),
                    # One without a number is about to log in.
                    client.pid if client is not None else None,
                )
            )
    return Table(columns, rows)


def prepared_statements(proxy: Proxy) -> Table:
    """Named statements that are prepared on server connections; constants in them are shown as question marks."""
    found: dict[tuple[str, str, bytes], list[ServerConnection]] = {}
    for pool in proxy.pools:
        for server in pool.servers:
            for name in server.prepared:
                found.setdefault((pool.database, pool.user, name), []).append(server)
    rows: list[Row] = []
    for (database, user, name), servers in sorted(found.items(), key=lambda item: item[0]):
        text_ = servers[0].prepared[name].body.split(b"\0", 1)[0]
        shown = normalized(text_, servers[0].reads_standard_strings)[:_SHOWN]
        rows.append((database, user, name.decode(), len(servers), shown))
    return Table(text("database", "user", "name") + int4("servers") + text("statement"), rows)
