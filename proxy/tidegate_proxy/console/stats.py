"""SHOW STATS and its relatives: totals since the proxy began, averages of the latest full `stats_period`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.console.table import Row, Table, numeric, text
from tidegate_proxy.metrics.counts import OTHERS

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

_COUNTED = (
    ("server_assignment_count", "assignments"),
    ("xact_count", "transactions"),
    ("query_count", "requests"),
)
_BYTES = (("received", "received"), ("sent", "sent"))
_TIMES = (
    # Each with what its average is taken of.
    ("xact_time", "transaction_time", "transactions"),
    ("query_time", "request_time", "requests"),
    ("wait_time", "wait_time", "assignments"),
)
_PREPARED = (
    ("client_parse_count", "client_parses"),
    ("server_parse_count", "server_parses"),
    ("bind_count", "binds"),
)
_NAMES = tuple(name for name, *_ in (*_COUNTED, ("bytes_received",), ("bytes_sent",), *_TIMES, *_PREPARED))
# In SHOW STATS bytes have other names than in the others, and other ones in averages than in totals.
_STATS_TOTALS = tuple(f"total_{name.removeprefix('bytes_')}" for name in _NAMES)
_STATS_AVERAGES = tuple("avg_" + {"bytes_received": "recv", "bytes_sent": "sent"}.get(name, name) for name in _NAMES)


def _totals(sums: dict[str, float]) -> tuple[int, ...]:
    microseconds = [round(sums.get(name, 0) * 1e6) for _, name, _ in _TIMES]
    return (
        *(int(sums.get(name, 0)) for _, name in (*_COUNTED, *_BYTES)),
        *microseconds,
        *(int(sums.get(name, 0)) for _, name in _PREPARED),
    )


def _averages(sums: dict[str, float], seconds: float) -> tuple[int, ...]:
    each = [round(sums.get(name, 0) * 1e6 / max(1, sums.get(of, 0))) for _, name, of in _TIMES]
    return (
        *(round(sums.get(name, 0) / seconds) for _, name in (*_COUNTED, *_BYTES)),
        *each,
        *(round(sums.get(name, 0) / seconds) for _, name in _PREPARED),
    )


def _databases(proxy: Proxy) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    seconds, grown = proxy.averages.differences()
    # As with PgBouncer, a name that has led nowhere has no row once its pool has gone.
    sums = {name: of for name, of in proxy.counts.sums().items() if name != OTHERS}
    return (
        {name: _totals(of) for name, of in sums.items()},
        {name: _averages(grown.get(name, {}), seconds) for name in sums},
    )


def stats(proxy: Proxy) -> Table:
    """Totals and averages of each database; times in microseconds."""
    totals, averages = _databases(proxy)
    rows: list[Row] = [(name, *totals[name], *averages[name]) for name in sorted(totals)]
    return Table(text("database") + numeric(*_STATS_TOTALS, *_STATS_AVERAGES), rows)


def stats_totals(proxy: Proxy) -> Table:
    """Totals of each database since the proxy began."""
    totals, _ = _databases(proxy)
    return Table(text("database") + numeric(*_NAMES), [(name, *totals[name]) for name in sorted(totals)])


def stats_averages(proxy: Proxy) -> Table:
    """Averages of each database over the latest full stats_period."""
    _, averages = _databases(proxy)
    return Table(text("database") + numeric(*_NAMES), [(name, *averages[name]) for name in sorted(averages)])


def totals(proxy: Proxy) -> Table:
    """Totals and averages of all databases together, one in a row."""
    seconds, grown = proxy.averages.differences()
    rows: list[Row] = list(zip(_names("total"), _totals(_together(proxy.counts.sums())), strict=True))
    rows += zip(_names("avg"), _averages(_together(grown), seconds), strict=True)
    return Table(text("name") + numeric("value"), rows)


def _names(prefix: str) -> list[str]:
    # Of what is counted of bytes it says whose they are, here only.
    bytes_ = {"bytes_received": "client_bytes", "bytes_sent": "server_bytes"}
    return [f"{prefix}_{bytes_.get(name, name)}" for name in _NAMES]


def _together(databases: dict[str, dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for sums in databases.values():
        for name, value in sums.items():
            total[name] = total.get(name, 0) + value
    return total
