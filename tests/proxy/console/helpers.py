"""Talking to the console of a test's proxy."""

from __future__ import annotations

from typing import Any

import psycopg
from tests.support.proxy import ProxyProcess

Row = dict[str, Any]


def console(proxy: ProxyProcess, **keywords: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection to the console, as the test's user unless told otherwise."""
    return psycopg.connect(**(proxy.parameters | {"dbname": "pgbouncer", "autocommit": True} | keywords))


def show(proxy: ProxyProcess, word: str, **keywords: Any) -> list[Row]:
    """Rows of one SHOW, as psycopg's simple protocol gets them."""
    with console(proxy, **keywords) as conn:
        cursor = psycopg.ClientCursor(conn)
        cursor.execute(f"SHOW {word}")
        names = [column.name for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def command(proxy: ProxyProcess, text: str, **keywords: Any) -> None:
    """Run a command; raises psycopg.Error as the console answers."""
    with console(proxy, **keywords) as conn:
        psycopg.ClientCursor(conn).execute(text)


def only(rows: list[Row], **wanted: Any) -> Row:
    """The one row with these values."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, rows
    return found[0]
