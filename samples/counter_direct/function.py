"""Counts without the layer, as most tutorials do: one global connection, opened at import, never checked."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import psycopg

# What a function does beside its database work, such as calls to other services.
WORK_SECONDS = float(os.environ.get("WORK_SECONDS", "0"))

# Everything comes from PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD and PGSSLMODE.
conn = psycopg.connect(autocommit=True)


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    time.sleep(WORK_SECONDS)
    row = int(event.get("id") or random.randint(1, 1000))  # noqa: S311 - any row will do
    conn.execute("SELECT value FROM counter WHERE id = %s", (row,)).fetchone()
    # Last, so that an invocation that committed cannot fail afterwards.
    with conn.transaction():
        conn.execute("UPDATE counter SET value = value + 1 WHERE id = %s", (row,))
        found = conn.execute("SELECT value FROM counter WHERE id = %s", (row,)).fetchone()
        assert found is not None, f"there is no row {row}"
    return {"committed": True, "id": row, "value": int(found[0])}
