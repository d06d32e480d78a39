"""SHOW for several workers together: which tables can be joined, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidegate_proxy.console import own
from tidegate_proxy.console.show import SHOWS
from tidegate_proxy.console.table import Columns, Row, Table
from tidegate_proxy.metrics.histogram import summed

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

Part = list[list[Any]]
"""Rows of one worker."""


@dataclass(frozen=True)
class _Rule:
    """How rows of several workers become one.

    Parameters: `keys`, columns of which rows have the same values, none for rows that stay as they are; `same`, those
    that are alike in all workers; `most`, which are those of the row where they are greatest, compared from left to
    right; `means`, averages, each with the column that says of how many. Of others, numbers are added, and the first
    text is taken that there is.
    """

    keys: tuple[str, ...] = ()
    same: frozenset[str] = frozenset()
    most: tuple[str, ...] = ()
    means: Mapping[str, str] = field(default_factory=dict)


def _means(prefix: str) -> dict[str, str]:
    return {
        f"{prefix}xact_time": f"{prefix}xact_count",
        f"{prefix}query_time": f"{prefix}query_count",
        f"{prefix}wait_time": f"{prefix}server_assignment_count",
    }


_EACH = _Rule()
_RULES: Mapping[str, _Rule] = {
    "POOLS": _Rule(("database", "user"), most=("maxwait", "maxwait_us")),
    "STATS": _Rule(("database",), means=_means("avg_")),
    "STATS_TOTALS": _Rule(("database",)),
    "STATS_AVERAGES": _Rule(("database",), means=_means("")),
    "TOTALS": _Rule(means=_means("avg_")),
    "DATABASES": _Rule(
        ("name",),
        same=frozenset({"port", "pool_size", "min_pool_size", "reserve_pool_size", "server_lifetime"})
        | {"max_connections", "max_client_connections", "paused", "disabled"},
    ),
    "USERS": _Rule(("name",), same=frozenset({"max_user_connections", "max_user_client_connections"})),
    "CLIENTS": _EACH,
    "SERVERS": _EACH,
    "SOCKETS": _EACH,
    "ACTIVE_SOCKETS": _EACH,
    "BORROWS": _EACH,
    "PINS": _Rule(("database", "user", "reason")),
    "LATENCIES": _EACH,
    "TARGETS": _Rule(("host", "port")),
    "PREPARED_STATEMENTS": _Rule(("database", "user", "name", "statement")),
    "LISTS": _Rule(("list",)),
    "MEM": _Rule(("name",), most=("size",)),
}


def is_joint(word: str) -> bool:
    """Whether this SHOW is about all workers, rather than about the one that is asked."""
    return word in _RULES


def part_of(word: str, proxy: Proxy) -> Part:
    """What this worker contributes to a SHOW."""
    if word == "LATENCIES":
        # Percentiles cannot be joined, what they are of can.
        return [[*key, counts] for key, counts in proxy.averages.latencies().items()]
    return [list(row) for row in SHOWS[word](proxy).rows]


def joined(word: str, columns: Columns, parts: Sequence[Part]) -> Table:
    """The parts of all workers as one table. Parameters: `columns`, those of the table."""
    rows = [row for part in parts for row in part]
    if word == "LATENCIES":
        found: dict[tuple[str, str], list[int]] = {}
        for database, name, counts in rows:
            found[database, name] = summed(found.get((database, name), []), counts)
        return own.latency_table(found)
    rule = _RULES[word]
    names = [name for name, _ in columns]
    if word == "TOTALS":
        # One row, written downwards.
        names = [row[0] for row in parts[0]]
        one = _join(names, [[value for _, value in part] for part in parts], rule)
        return Table(columns, list(zip(names, one, strict=True)))
    if not rule.keys:
        return Table(columns, [tuple(row) for row in rows])
    groups: dict[tuple[Any, ...], Part] = {}
    for row in rows:
        groups.setdefault(tuple(row[names.index(key)] for key in rule.keys), []).append(row)
    return Table(columns, [_join(names, group, rule) for group in groups.values()])


def _join(names: list[str], rows: Part, rule: _Rule) -> Row:
    by_name = [dict(zip(names, row, strict=True)) for row in rows]
    greatest = max(by_name, key=lambda row: [row[name] for name in rule.most])
    return tuple(
        greatest[name]
        if name in rule.most
        else _mean(by_name, name, rule.means[name])
        if name in rule.means
        else _value((row[name] for row in by_name), name in rule.keys or name in rule.same)
        for name in names
    )


def _mean(rows: list[dict[str, Any]], name: str, of: str) -> int:
    # A worker with less than one in a second counts as nothing, unless all are like that.
    count = sum(row[of] for row in rows)
    if not count:
        return int(max(row[name] for row in rows))
    return int(sum(row[name] * row[of] for row in rows) / count + 0.5)


def _value(values: Iterable[Any], same: bool) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return known[0] if same or isinstance(known[0], str) else sum(known)
