"""The answer to a SHOW: columns with PostgreSQL's types, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

# Object identifiers of types: src/include/catalog/pg_type.dat of PostgreSQL.
_TEXT, _INT4, _INT8, _NUMERIC = 25, 23, 20, 1700

Value = str | int | None
Row = tuple[Value, ...]
Columns = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Table:
    """Names and types of the columns, and the rows; None is NULL."""

    columns: Columns
    rows: Sequence[Row]


def text(*names: str) -> Columns:
    """Columns of type text."""
    return tuple((name, _TEXT) for name in names)


def int4(*names: str) -> Columns:
    """Columns of type integer."""
    return tuple((name, _INT4) for name in names)


def int8(*names: str) -> Columns:
    """Columns of type bigint."""
    return tuple((name, _INT8) for name in names)


def numeric(*names: str) -> Columns:
    """Columns of type numeric, as PgBouncer has its statistics: no number is too large for it."""
    return tuple((name, _NUMERIC) for name in names)


def timestamp(seconds: float) -> str:
    """A Unix time as PgBouncer writes it: `2025-01-31 12:00:00 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
