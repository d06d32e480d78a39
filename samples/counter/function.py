"""Counts with the layer: a read, then one row up by one in a transaction."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import psycopg

import tidegate

# What a function does beside its database work, such as calls to other services.
WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "0"))

db = tidegate.connect()


def increment(conn: psycopg.Connection[Any], row: int) -> int:
    conn.execute("UPDATE counter SET value = value + 1 WHERE id = %s", (row,))
    found = conn.execute("SELECT value FROM counter WHERE id = %s", (row,)).fetchone()
    assert found is not None, f"there is no row {row}"
    return int(found[0])


def read(conn: psycopg.Connection[Any], row: int) -> None:
    conn.execute("SELECT value FROM counter WHERE id = %s", (row,)).fetchone()


@db.handler
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    time.sleep(WORK_SECONDS)
    row = int(event.get("id") or random.randint(1, 1000))  # noqa: S311 - any row will do
    db.transaction(read, row)
    # Last, so that an invocation that committed cannot fail afterwards.
    value = db.transaction(increment, row)
    return {"committed": True, "id": row, "value": value}
