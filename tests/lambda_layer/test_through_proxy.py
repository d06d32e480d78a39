"""The layer's promises hold through the Tidegate proxy, too, where a server connection is shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import PATIENT, Context, connected, plain_connection
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.relay import Relay

import tidegate


def insert(conn: psycopg.Connection[Any]) -> str:
    conn.execute("INSERT INTO work VALUES (1)")
    return "done"


@pytest.fixture
def port(proxy: ProxyProcess, database: Database) -> int:
    """Where the proxy listens in front of a database with a table of work done."""
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE work (id int)")
    return proxy.port


def rows(database: Database) -> int:
    with plain_connection(database) as conn:
        found = conn.execute("SELECT count(*) FROM work").fetchone()
    assert found is not None
    return int(found[0])


def test_a_lost_commit_is_found_out(database: Database, port: int, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(port)
    with connected(database, port=relay.port) as db:
        assert db.transaction(insert) == "done"
        relay.reset_at_answer(b"COMMIT\0")
        assert db.transaction(insert) == "done"
        assert not relay.trap_is_set
    assert rows(database) == 2


def test_a_statement_is_cancelled_at_the_deadline(database: Database, port: int) -> None:
    def busy() -> bool:
        with database.server.connect() as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE %s AND state = 'active'"
            found = admin.execute(query, [database.name, "%pg_sleep%"]).fetchone()
        return bool(found and found[0])

    with connected(database, port=port, **PATIENT) as db:
        context = Context(3.0)
        with pytest.raises(tidegate.DeadlineExceeded, match="cancelled"), db.invocation(context):
            db.transaction(lambda conn: conn.execute("SELECT pg_sleep(60)"))
        assert context.get_remaining_time_in_millis() > 0
        eventually(lambda: not busy())
        with db.invocation(Context()):
            assert db.transaction(insert) == "done"


def test_the_session_is_restored(database: Database, port: int) -> None:
    with connected(database, port=port) as db:
        with db.invocation(Context()), db.connection() as conn:
            conn.execute("SET work_mem = '123kB'")
            conn.execute("CREATE TEMP TABLE t (n int)")
        with db.invocation(Context()), db.connection() as conn:
            assert conn.execute("SHOW work_mem").fetchone() == ("4MB",)
            assert conn.execute("SELECT to_regclass('pg_temp.t')").fetchone() == (None,)
