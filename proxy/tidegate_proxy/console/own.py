"""What PgBouncer has no word for: SHOW PINS, BORROWS, LATENCIES, TARGETS, FLEET and PREPARED_STATEMENTS."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from tidegate_proxy.console.averages import Histograms
from tidegate_proxy.console.sockets import pointer
from tidegate_proxy.console.table import Row, Table, int4, int8, text, timestamp
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.fingerprint import normalized
from tidegate_proxy.fleet.name import unpack_address
from tidegate_proxy.metrics.histogram import percentile
from tidegate_proxy.metrics.target_health import connections_allowed, target_health

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


_KINDS = {
    "wait": "DatabaseConnectionsBorrowLatency",
    "query": "QueryDatabaseResponseLatency",
    "transaction": "TransactionLatency",
}


def latencies(proxy: Proxy) -> Table:
    """Percentiles over the latest full stats_period, in microseconds: wait for a server, query, transaction."""
    return latency_table(proxy.averages.latencies())


def latency_table(found: Histograms) -> Table:
    """The table of SHOW LATENCIES for these durations."""
    rows: list[Row] = []
    for database in sorted({database for database, _ in found}):
        for kind, name in _KINDS.items():
            counts = found.get((database, name), [])
            parts = (percentile(counts, part) for part in (0.5, 0.9, 0.99, 1.0))
            rows.append((database, kind, sum(counts), *(None if part is None else round(part) for part in parts)))
    return Table(text("database", "kind") + int8("count", "p50", "p90", "p99", "max"), rows)


def fleet(proxy: Proxy) -> Table:
    """The members of each server's fleet, as this one saw them last: what each may have, has, and could use."""
    columns = text("target", "member") + int4("self", "share", "held", "demand") + text("address") + int4("budget")
    rows: list[Row] = []
    for membership in proxy.fleet.memberships:
        view = membership.view
        for member in sorted(view.members, key=lambda member: member.id) if view is not None else ():
            address = unpack_address(member.address) if member.address else None
            rows.append(
                (
                    membership.target,
                    member.id,
                    int(member.id == proxy.fleet.id),
                    member.share,
                    member.held,
                    member.demand,
                    None if address is None else f"{address[0]} port {address[1]}",
                    view.budget if view is not None else None,
                )
            )
    return Table(columns, rows)


def targets(proxy: Proxy) -> Table:
    """Every target: where it is, its role and state in RDS Proxy's words, its server connections."""
    columns = (
        text("host") + int4("port") + text("role", "state", "reason", "description", "databases", "since")
        + int4("connections", "max_connections")
    )  # fmt: skip
    allowed = connections_allowed(proxy)
    connections = Counter(pool.target_of(server) for pool in proxy.pools for server in pool.servers)
    rows: list[Row] = []
    for health in target_health(proxy):
        target = f"{health.host}:{health.port}"
        rows.append(
            (
                health.host,
                health.port,
                health.role.value,
                health.state.value,
                health.reason.value if health.reason is not None else None,
                health.description,
                ",".join(health.databases),
                timestamp(health.since) if health.since else None,
                connections[target],
                allowed.get(target),
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
