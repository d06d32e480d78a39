"""The words of SHOW, each with the function that makes its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tidegate_proxy.console import config, own, pools, sockets, stats
from tidegate_proxy.console.table import Table, text

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

COMMANDS = {
    "PAUSE [db]": "let transactions end, close server connections, let clients wait; returns when all are closed",
    "RESUME [db]": "go on after PAUSE or KILL",
    "RECONNECT [db]": "replace each server connection when it is next free",
    "WAIT_CLOSE [db]": "wait until what RECONNECT or RELOAD replaces is closed",
    "DISABLE db": "take no new clients for a database",
    "ENABLE db": "take them again",
    "KILL [db]": "end all clients and server connections now; new clients wait for RESUME",
    "KILL_CLIENT id": "end one client, by its id in SHOW CLIENTS",
    "RELOAD": "read the configuration again",
    "SET key = value": "change a setting until the next RELOAD or restart",
    "SHUTDOWN": "end now",
    "SHUTDOWN WAIT_FOR_SERVERS": "end when all transactions have ended, as after SIGTERM",
    "SHUTDOWN WAIT_FOR_CLIENTS": "take no new clients, and end when the last one has gone",
}
"""The other commands, and what each does."""


def help_(proxy: Proxy) -> Table:
    """All commands."""
    rows = [(f"SHOW {word}", _first_line(show)) for word, show in SHOWS.items()]
    return Table(text("command", "what it does"), [*rows, *COMMANDS.items()])


def _first_line(show: Callable[[Proxy], Table]) -> str:
    return (show.__doc__ or "").splitlines()[0]


SHOWS: dict[str, Callable[[Proxy], Table]] = {
    "POOLS": pools.pools,
    "STATS": stats.stats,
    "STATS_TOTALS": stats.stats_totals,
    "STATS_AVERAGES": stats.stats_averages,
    "TOTALS": stats.totals,
    "DATABASES": pools.databases,
    "USERS": pools.users,
    "CLIENTS": sockets.clients,
    "SERVERS": sockets.servers,
    "BORROWS": own.borrows,
    "PINS": own.pins,
    "LATENCIES": own.latencies,
    "TARGETS": own.targets,
    "FLEET": own.fleet,
    "PREPARED_STATEMENTS": own.prepared_statements,
    "CONFIG": config.config,
    "LISTS": pools.lists,
    "MEM": pools.mem,
    "SOCKETS": sockets.sockets,
    "ACTIVE_SOCKETS": sockets.active_sockets,
    "FDS": sockets.fds,
    "STATE": pools.state,
    "DNS_HOSTS": pools.dns_hosts,
    "DNS_ZONES": pools.dns_zones,
    "PEERS": pools.peers,
    "PEER_POOLS": pools.peer_pools,
    "VERSION": pools.version,
    "HELP": help_,
}
