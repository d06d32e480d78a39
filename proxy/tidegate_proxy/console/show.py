"""What SHOW shows: one function per word, each a table of text values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate_proxy import __version__

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.proxy import Proxy

Row = tuple[str | None, ...]


@dataclass(frozen=True)
class Table:
    """The answer to one SHOW: column names and rows of text, None for nothing."""

    columns: tuple[str, ...]
    rows: list[Row]


def _state(client: ClientConnection) -> str:
    if client.waiting:
        return "waiting"
    return "active" if client.server is not None else "idle"


def clients(proxy: Proxy) -> Table:
    """Every client: who it is, what it does, which server process it holds, and what pins it there."""
    rows: list[Row] = []
    for client in proxy.clients:
        peer = client.transport.get_extra_info("peername") or ("", 0)
        pool = proxy.pool_of(client)
        rows.append(
            (
                "C",
                pool.user,
                pool.database,
                _state(client),
                str(peer[0]),
                str(peer[1]),
                client.session.parameters.get("application_name"),
                str(client.server.pid) if client.server is not None else None,
                ", ".join(sorted(client.session.pins)) or None,
                str(client.pid),
            )
        )
    columns = ("type", "user", "database", "state", "addr", "port", "application_name", "link", "pinned", "id")
    return Table(columns, rows)


def pins(proxy: Proxy) -> Table:
    """How often clients were pinned since the proxy began, and how many are now, by pool and reason."""
    now: dict[tuple[str, str, str], int] = {}
    for client in proxy.clients:
        pool = proxy.pool_of(client)
        for reason in client.session.pins:
            key = (pool.database, pool.user, reason)
            now[key] = now.get(key, 0) + 1
    rows: list[Row] = [
        (pool.database, pool.user, reason, str(now.get((pool.database, pool.user, reason), 0)), str(count))
        for pool in proxy.pools
        for reason, count in sorted(pool.counts.pins.items())
    ]
    return Table(("database", "user", "reason", "clients", "total"), rows)


def version(proxy: Proxy) -> Table:
    """The proxy's version."""
    return Table(("version",), [(f"Tidegate {__version__}",)])


def help_(proxy: Proxy) -> Table:
    """What can be shown."""
    return Table(("command", "what it shows"), [(f"SHOW {word}", _first_line(show)) for word, show in SHOWS.items()])


def _first_line(show: Callable[[Proxy], Table]) -> str:
    return (show.__doc__ or "").splitlines()[0]


SHOWS: dict[str, Callable[[Proxy], Table]] = {
    "CLIENTS": clients,
    "PINS": pins,
    "VERSION": version,
    "HELP": help_,
}


def words() -> Iterable[str]:
    """Everything that SHOW takes."""
    return SHOWS
