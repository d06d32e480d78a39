"""pg8000, in pure Python, by its DB-API and its own interface."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import uuid
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest
from tests.drivers.endpoints import CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint, in_threads


def connect(endpoint: Endpoint, **keywords: Any) -> Any:
    return pg8000.dbapi.connect(**endpoint.keywords, timeout=60, **keywords)


def connect_native(endpoint: Endpoint, **keywords: Any) -> Any:
    return pg8000.native.Connection(**endpoint.keywords, timeout=60, **keywords)


def fetch(conn: Any, statement: str, values: Any = ()) -> list[Any]:
    cursor = conn.cursor()
    cursor.execute(statement, values)
    return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


@pytest.fixture
def pair(narrow_endpoint: Endpoint) -> Any:
    """Two connections."""
    one, two = connect(narrow_endpoint), connect(narrow_endpoint, application_name="shop")
    yield one, two
    one.close()
    two.close()


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint, pair: Any) -> None:
    for conn in (*pair, *pair):
        assert fetch(conn, "SELECT 1") == [(1,)]
        conn.commit()
    assert fetch(pair[1], "SELECT current_setting('application_name')") == [("shop",)]
    assert narrow_endpoint.pins() == []


def test_values_come_back_as_they_went(endpoint: Endpoint) -> None:
    values = [
        ("bool", True),
        ("int8", 2**62),
        ("numeric", decimal.Decimal("12345678901234567890.123456789")),
        ("text", "naïve ☃ \\ ' %s"),
        ("bytea", b"\x00\xff"),
        ("date", dt.date(2024, 2, 29)),
        ("timestamptz", dt.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=dt.UTC)),
        ("uuid", uuid.UUID(int=7)),
        ("int[]", [1, None, 3]),
        ("jsonb", {"a": [None]}),
    ]
    with connect_native(endpoint) as conn:
        for kind, value in values:
            assert conn.run(f"SELECT CAST(:value AS {kind})", value=value) == [[value]]


def test_transactions_and_savepoints(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int PRIMARY KEY)")
    one.commit()
    fetch(one, "INSERT INTO t VALUES (%s)", [1])
    fetch(one, "SAVEPOINT s")
    with pytest.raises(pg8000.dbapi.DatabaseError) as raised:
        fetch(one, "INSERT INTO t VALUES (2), (1)")
    assert raised.value.args[0]["C"] == "23505"
    fetch(one, "ROLLBACK TO SAVEPOINT s")
    one.cursor().executemany("INSERT INTO t VALUES (%s)", [(3,), (4,)])
    one.commit()
    fetch(two, "DELETE FROM t")
    two.rollback()
    assert fetch(two, "SELECT a FROM t ORDER BY a") == [(1,), (3,), (4,)]
    assert narrow_endpoint.pins() == []


def test_prepared_statements_of_many_clients(narrow_endpoint: Endpoint) -> None:
    conns = [connect_native(narrow_endpoint) for _ in range(5)]
    statements = [conn.prepare(f"SELECT {number} + CAST(:v AS int)") for number, conn in enumerate(conns)]
    for turn in range(10):
        for number, statement in enumerate(statements):
            assert statement.run(v=turn) == [[number + turn]]
    for statement, conn in zip(statements, conns, strict=True):
        statement.close()
        assert conn.run("SELECT 1") == [[1]]
        conn.close()
    assert narrow_endpoint.pins() == []


def test_copy_in_and_out(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int, b text)")
    lines = "".join(f"{a},x{a}\n" for a in range(5000)).encode()
    one.cursor().execute("COPY t FROM STDIN (FORMAT csv)", stream=io.BytesIO(lines))
    one.commit()
    with pytest.raises(pg8000.dbapi.DatabaseError):
        one.cursor().execute("COPY t FROM STDIN (FORMAT csv)", stream=io.BytesIO(b"wrong,y\n" * 10_000))
    one.rollback()
    out = io.BytesIO()
    two.cursor().execute("COPY t TO STDOUT (FORMAT csv)", stream=out)
    assert out.getvalue() == lines
    assert narrow_endpoint.pins() == []


def test_notifications(endpoint: Endpoint) -> None:
    with connect_native(endpoint) as listener, connect_native(endpoint) as sender:
        listener.run("LISTEN news")
        sender.run("NOTIFY news, 'one'")
        sender.run("NOTIFY news, 'two'")
        while len(listener.notifications) < 2:
            listener.run("SELECT 1")
        assert [(channel, payload) for _, channel, payload in listener.notifications] == [
            ("news", "one"),
            ("news", "two"),
        ]


def test_two_phase_commits(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int)")
    one.commit()
    # pg8000 knows its own transaction again only by an identifier without format and branch.
    one.tpc_begin(one.xid(0, narrow_endpoint.database.name, ""))
    fetch(one, "INSERT INTO t VALUES (1)")
    one.tpc_prepare()
    one.tpc_commit()
    assert fetch(two, "SELECT a FROM t") == [(1,)]
    assert narrow_endpoint.pins() == []


def test_statement_timeouts(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "SET statement_timeout TO 400")
    one.commit()
    with pytest.raises(pg8000.dbapi.DatabaseError) as raised:
        fetch(one, "SELECT pg_sleep(600)")
    assert raised.value.args[0]["C"] == "57014"
    one.rollback()
    assert fetch(two, "SELECT 1 FROM pg_sleep(0.7)") == [(1,)]


def test_errors_carry_the_servers_fields(narrow_endpoint: Endpoint) -> None:
    with connect_native(narrow_endpoint) as one, connect_native(narrow_endpoint) as two:
        for statement, state in [("SELECT 1/0", "22012"), ("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01")]:
            for conn in (one, two):
                with pytest.raises(pg8000.native.DatabaseError) as raised:
                    conn.run(statement)
                assert raised.value.args[0]["C"] == state
                assert conn.run("SELECT 1") == [[1]]


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    conn = connect(endpoint)
    for statement in CREATE_LEDGER:
        fetch(conn, statement)
    conn.commit()

    def work(client: int) -> None:
        mine = connect(endpoint)
        for turn in range(ROUNDS):
            for fate in (mine.rollback, mine.commit):
                fetch(mine, "INSERT INTO entries VALUES (%s, %s)", [client, turn])
                fetch(mine, "UPDATE counter SET n = n + 1")
                fate()
        mine.close()

    in_threads(work)
    assert fetch(conn, LEDGER_TOTALS) == [FULL_LEDGER]
    conn.close()
    assert endpoint.pins() == []
