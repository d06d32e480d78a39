"""SHOW CLIENTS, SERVERS, SOCKETS and FDS: one row for each connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tidegate_proxy.console.table import Row, Table, int4, int8, text, timestamp

if TYPE_CHECKING:
    import asyncio

    from tidegate_proxy.console.console import Console
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy

_COLUMNS = (
    text("type", "user", "database", "replication", "state", "addr")
    + int4("port")
    + text("local_addr")
    + int4("local_port")
    + text("connect_time", "request_time")
    + int4("wait", "wait_us", "close_needed")
    + text("ptr", "link")
    + int4("remote_pid")
    + text("tls", "application_name")
    + int4("prepared_statements", "id")
)
_LOW_LEVEL = int4("recv_pos", "pkt_pos", "pkt_remain", "send_pos", "send_remain", "pkt_avail", "send_avail")


def pointer(connection: object) -> str:
    """What distinguishes a connection from all others of this process."""
    return f"0x{id(connection):x}"


def number(connection: object) -> int:
    """The same in an integer."""
    return id(connection) >> 4 & 0x7FFFFFFF


def client_state(client: ClientConnection) -> str:
    """In PgBouncer's words."""
    if client.waiting:
        return "waiting"
    return "active" if client.server is not None else "idle"


def server_state(pool: Pool, server: ServerConnection) -> str:
    """In PgBouncer's words; one that is being cleaned after its client is "tested"."""
    if server.client is not None:
        return "active_cancel" if server.cancels else "active"
    if server.cancels:
        return "being_canceled"
    return "idle" if server in pool.idle else "tested"


class _Clock:
    """Event-loop time as the time of day."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._offset = time.time() - self.now

    def text(self, moment: float) -> str:
        return timestamp(moment + self._offset)


def _address(transport: asyncio.BaseTransport) -> tuple[str, int, str, int]:
    def split(address: Any) -> tuple[str, int]:
        if isinstance(address, tuple) and len(address) >= 2:
            return str(address[0]), int(address[1])
        return "unix", 0

    socket = transport.get_extra_info("socket")
    try:
        local = socket.getsockname()
    except (OSError, AttributeError):  # closed meanwhile
        local = None
    return (*split(transport.get_extra_info("peername")), *split(local))


def _tls(transport: asyncio.BaseTransport) -> str:
    tls = transport.get_extra_info("ssl_object")
    cipher = tls.cipher() if tls is not None else None
    return f"{tls.version()}/{cipher[0]}" if cipher else ""


def _client(proxy: Proxy, client: ClientConnection, clock: _Clock) -> Row:
    pool = proxy.pool_of(client)
    waited = clock.now - client.waiting_since if client.waiting_since else 0.0
    return (
        "C",
        pool.user,
        pool.database,
        "none",
        client_state(client),
        *_address(client.transport),
        clock.text(client.connected),
        clock.text(client.asked or client.connected),
        int(waited),
        int(waited % 1 * 1e6),
        0,
        pointer(client),
        pointer(client.server) if client.server is not None else "",
        0,
        _tls(client.transport),
        client.session.parameters.get("application_name", ""),
        client.statements.count,
        client.pid,
    )


def _console(console: Console, clock: _Clock) -> Row:
    return (
        "C",
        console.user,
        "pgbouncer",
        "none",
        "active",
        *_address(console.transport),
        clock.text(console.connected),
        clock.text(console.asked),
        0,
        0,
        0,
        pointer(console),
        "",
        0,
        _tls(console.transport),
        console.application_name,
        0,
        number(console),
    )


def _server(pool: Pool, server: ServerConnection, clock: _Clock) -> Row:
    client = server.client
    return (
        "S",
        pool.user,
        pool.database,
        "none",
        server_state(pool, server),
        *_address(server.transport),
        clock.text(server.created),
        clock.text(server.asked or server.began or server.idle_since),
        0,
        0,
        int(pool.close_needed(server)),
        pointer(server),
        pointer(client) if client is not None else "",
        server.pid,
        _tls(server.transport),
        client.session.parameters.get("application_name", "") if client is not None else "",
        len(server.prepared),
        number(server),
    )


def clients(proxy: Proxy) -> Table:
    """Every client: who it is, what it does, what pins it, and the process of the server connection that it holds."""
    clock = _Clock()
    rows: list[Row] = [
        (
            *_client(proxy, client, clock),
            ", ".join(sorted(client.session.pins)) or None,
            client.server.pid if client.server is not None else None,
        )
        for client in proxy.clients
    ]
    rows += [(*_console(console, clock), None, None) for console in proxy.consoles]
    return Table(_COLUMNS + text("pinned") + int4("server_pid"), rows)


def servers(proxy: Proxy) -> Table:
    """Every server connection: where it goes, what it does, and for which client."""
    clock = _Clock()
    return Table(_COLUMNS, [_server(pool, server, clock) for pool in proxy.pools for server in pool.servers])


def _low_level(row: Row, state: str, transport: asyncio.Transport) -> Row:
    # Messages are forwarded from one buffer that all share, so there is no position in a connection's own to tell.
    return (*row[:4], state, *row[5:], 0, 0, 0, 0, 0, 0, transport.get_write_buffer_size())


def _sockets(proxy: Proxy, *, only_active: bool) -> Iterator[Row]:
    clock = _Clock()
    for client in proxy.clients:
        state = "cl_waiting" if client.waiting else "cl_active"
        if not only_active or client.waiting or client.server is not None:
            yield _low_level(_client(proxy, client, clock), state, client.transport)
    for console in proxy.consoles:
        yield _low_level(_console(console, clock), "cl_active", console.transport)
    for pool in proxy.pools:
        for server in pool.servers:
            state = server_state(pool, server)
            if not only_active or state != "idle":
                yield _low_level(_server(pool, server, clock), f"sv_{state}", server.transport)


def sockets(proxy: Proxy) -> Table:
    """Clients and servers together, with the bytes that wait to be sent (send_avail)."""
    return Table(_COLUMNS + _LOW_LEVEL, list(_sockets(proxy, only_active=False)))


def active_sockets(proxy: Proxy) -> Table:
    """The same without those that are idle."""
    return Table(_COLUMNS + _LOW_LEVEL, list(_sockets(proxy, only_active=True)))


def _fd(transport: asyncio.BaseTransport) -> int:
    socket = transport.get_extra_info("socket")
    return socket.fileno() if socket is not None else -1


def fds(proxy: Proxy) -> Table:
    """File descriptors of all connections; never a cancel key or a password."""
    rows: list[Row] = []
    for client in proxy.clients:
        pool = proxy.pool_of(client)
        link = _fd(client.server.transport) if client.server is not None else None
        rows.append(
            (_fd(client.transport), "client", pool.user, pool.database, *_address(client.transport)[:2], 0, link)
        )
    for pool in proxy.pools:
        for server in pool.servers:
            link = _fd(server.client.transport) if server.client is not None else None
            peer = _address(server.transport)[:2]
            rows.append((_fd(server.transport), "server", pool.user, pool.database, *peer, 0, link))
    columns = int4("fd") + text("task", "user", "database", "addr") + int4("port") + int8("cancel") + int4("link")
    return Table(columns, rows)
