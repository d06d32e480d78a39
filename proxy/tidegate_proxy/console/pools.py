"""SHOW POOLS, DATABASES, USERS and what else there is to know of the proxy's state."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from tidegate_proxy import __version__
from tidegate_proxy.console.table import Row, Table, int4, int8, text
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.metrics.counts import CONSOLE
from tidegate_proxy.settings.effective import shared_limits

if TYPE_CHECKING:
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy
    from tidegate_proxy.settings import DatabaseSettings


_POOLS = (
    text("database", "user")
    + int4("cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req")
    + int4("sv_active", "sv_active_cancel", "sv_being_canceled", "sv_idle", "sv_used", "sv_tested", "sv_login")
    + int4("maxwait", "maxwait_us")
    + text("pool_mode", "load_balance_hosts")
    # Not PgBouncer's.
    + int4("cl_pinned", "pool_size")
)

POOLS_COLUMNS = tuple(name for name, _ in _POOLS)
"""Names of the columns of SHOW POOLS."""


def pools(proxy: Proxy) -> Table:
    """Every pool, one per database and user: its clients, its server connections, its longest wait."""
    now = time.monotonic()
    pinned: dict[Pool, int] = {}
    clients: dict[Pool, int] = {}
    for client in proxy.clients:
        pool = proxy.pool_of(client)
        clients[pool] = clients.get(pool, 0) + 1
        pinned[pool] = pinned.get(pool, 0) + bool(client.session.pins)
    rows: list[Row] = []
    for pool in proxy.pools:
        waiting = pool.waiting
        longest = max((now - since for since, _ in waiting.values()), default=0.0)
        servers = pool.servers
        held = sum(server.client is not None for server in servers)
        canceled = sum(server.client is None and server.cancels > 0 for server in servers)
        rows.append(
            (
                pool.database,
                pool.user,
                clients.get(pool, 0) - sum(isinstance(waiter, ClientConnection) for waiter in waiting),
                len(waiting),
                sum(server.cancels for server in servers),
                0,
                held,
                sum(server.cancels > 0 for server in servers) - canceled,
                canceled,
                len(pool.idle),
                0,
                len(servers) - held - canceled - len(pool.idle),
                pool.opening,
                int(longest),
                int(longest % 1 * 1e6),
                proxy.settings.pool_mode_of(pool.database, pool.user),
                None,
                pinned.get(pool, 0),
                pool.limits.pool_size,
            )
        )
    if proxy.consoles:
        rows.append((CONSOLE, CONSOLE, len(proxy.consoles), *([0] * 12), "statement", None, 0, 0))
    return Table(_POOLS, rows)


def databases(proxy: Proxy) -> Table:
    """Every configured database, and every other one that clients use now: where it is, and how many connections."""
    columns = (
        text("name", "host")
        + int4("port")
        + text("database", "force_user")
        + int4("pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime")
        + text("pool_mode", "load_balance_hosts")
        + int4("max_connections", "current_connections", "max_client_connections", "current_client_connections")
        + int4("paused", "disabled")
    )
    used = {pool.database for pool in proxy.pools}
    rows: list[Row] = [
        _database(proxy, name, proxy.settings.databases.get(name) or proxy.settings.database(name))
        for name in [*proxy.settings.databases, *sorted(used - proxy.settings.databases.keys())]
    ]
    console = len(proxy.consoles)
    rows.append(
        (
            CONSOLE,
            None,
            proxy.settings.listen_port,
            CONSOLE,
            CONSOLE,
            0,
            0,
            0,
            0,
            "statement",
            None,
            0,
            0,
            0,
            console,
            0,
            0,
        )
    )
    return Table(columns, rows)


def _database(proxy: Proxy, name: str, database: DatabaseSettings | None) -> Row:
    settings = proxy.settings
    servers, clients = _connections(proxy, name)
    if database is None:  # it is no longer configured, and its last clients are about to go
        return (name, None, None, name, None, 0, 0, 0, 0, None, None, 0, servers, 0, clients, 0, 0)
    return (
        name,
        database.host,
        database.port,
        database.dbname or name,
        database.user,
        _own(database.pool_size, settings.default_pool_size),
        _own(database.min_pool_size, settings.min_pool_size),
        _own(database.reserve_pool_size, settings.reserve_pool_size),
        int(settings.server_lifetime if database.server_lifetime is None else database.server_lifetime),
        database.pool_mode,
        None,
        _own(database.max_db_connections, settings.max_db_connections),
        servers,
        _own(database.max_db_client_connections, settings.max_db_client_connections),
        clients,
        int(proxy.control.is_paused(name)),
        int(proxy.control.is_disabled(name)),
    )


def _own(value: int | None, general: int) -> int:
    return general if value is None else value


def _connections(proxy: Proxy, name: str) -> tuple[int, int]:
    return (
        sum(len(pool.servers) for pool in proxy.pools if pool.database == name),
        sum(proxy.pool_of(client).database == name for client in proxy.clients),
    )


def users(proxy: Proxy) -> Table:
    """Every configured user, and every other one that is logged in."""
    columns = text("name", "pool_size", "reserve_pool_size", "pool_mode") + int4(
        "max_user_connections", "current_connections", "max_user_client_connections", "current_client_connections"
    )
    used = {pool.user for pool in proxy.pools}
    rows: list[Row] = []
    for name in [*proxy.settings.users, *sorted(used - proxy.settings.users.keys())]:
        user = proxy.settings.users.get(name)
        limits = shared_limits(proxy.settings, "", name)
        servers = sum(len(pool.servers) for pool in proxy.pools if pool.user == name)
        clients = sum(proxy.pool_of(client).user == name for client in proxy.clients)
        own = (user.pool_size, user.reserve_pool_size, user.pool_mode) if user is not None else (None, None, None)
        rows.append(
            (
                name,
                *(str(value) if value is not None else None for value in own),
                limits.max_user_connections,
                servers,
                limits.max_user_client_connections,
                clients,
            )
        )
    return Table(columns, rows)


def lists(proxy: Proxy) -> Table:
    """How many there are of everything."""
    databases = {*proxy.settings.databases, *(pool.database for pool in proxy.pools), CONSOLE}
    users = {*proxy.settings.users, *(pool.user for pool in proxy.pools)}
    pools = list(proxy.pools)
    counted: dict[str, int] = {
        "databases": len(databases),
        "users": len(users),
        "peers": 0,
        "pools": len(pools),
        "peer_pools": 0,
        "free_clients": 0,
        "used_clients": len(list(proxy.clients)) + len(proxy.consoles),
        "login_clients": proxy.logging_in,
        "free_servers": 0,
        "used_servers": sum(len(pool.servers) for pool in pools),
        "dns_names": 0,
        "dns_zones": 0,
        "dns_queries": 0,
        "dns_pending": 0,
    }
    return Table(text("list") + int4("items"), list(counted.items()))


def mem(proxy: Proxy) -> Table:
    """Objects and the bytes that they take by themselves, without their buffers and what they refer to."""
    kinds: dict[str, list[object]] = {
        "client": list(proxy.clients),
        "session": [client.session for client in proxy.clients],
        "server": [server for pool in proxy.pools for server in pool.servers],
        "pool": list(proxy.pools),
    }
    rows: list[Row] = []
    for name, objects in kinds.items():
        size = sys.getsizeof(objects[0]) if objects else 0
        rows.append((name, size, len(objects), 0, size * len(objects)))
    return Table(text("name") + int4("size", "used", "free", "memtotal"), rows)


def state(proxy: Proxy) -> Table:
    """Whether the proxy is active or paused as a whole."""
    paused = proxy.control.all_paused
    rows: list[Row] = [
        ("active", "no" if paused or proxy.draining else "yes"),
        ("paused", "yes" if paused else "no"),
        ("suspended", "no"),
        ("draining", "yes" if proxy.draining else "no"),
    ]
    return Table(text("key", "value"), rows)


def version(proxy: Proxy) -> Table:
    """The proxy's version."""
    return Table(text("version"), [(f"Tidegate {__version__}",)])


def dns_hosts(proxy: Proxy) -> Table:
    """Nothing: names are resolved by the system, for each new server connection."""
    return Table(text("hostname") + int8("ttl") + text("addrs"), [])


def dns_zones(proxy: Proxy) -> Table:
    """Nothing, for the same reason."""
    return Table(text("zonename") + int8("serial") + int4("count"), [])


def peers(proxy: Proxy) -> Table:
    """Nothing: other proxies are not configured as peers."""
    return Table(int4("peer_id") + text("host") + int4("port", "pool_size"), [])


def peer_pools(proxy: Proxy) -> Table:
    """Nothing, for the same reason."""
    names = ("peer_id", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_login")
    return Table(int4(*names), [])
