"""psycopg2, which sends simple queries only."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import select
import threading
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest
from tests.drivers.endpoints import CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint, in_threads


def connect(endpoint: Endpoint, **keywords: Any) -> Any:
    return psycopg2.connect(**endpoint.parameters, connect_timeout=60, **keywords)


def fetch(conn: Any, statement: str, values: Any = None) -> list[Any]:
    with conn.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def pair(narrow_endpoint: Endpoint) -> Any:
    """Two connections."""
    one, two = connect(narrow_endpoint), connect(narrow_endpoint)
    yield one, two
    one.close()
    two.close()


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint, pair: Any) -> None:
    for conn in (*pair, *pair):
        assert fetch(conn, "SELECT 1") == [(1,)]
        conn.commit()
    pair[0].set_client_encoding("LATIN1")
    pair[1].set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=True)
    for _ in range(2):
        assert fetch(pair[0], "SELECT 'é', current_setting('client_encoding')") == [("é", "LATIN1")]
        pair[0].commit()
        names = ("client_encoding", "transaction_isolation", "transaction_read_only")
        shown = [fetch(pair[1], "SELECT current_setting(%s)", [name])[0][0] for name in names]
        assert shown == ["UTF8", "serializable", "on"]
    assert narrow_endpoint.pins() == []


def test_values_come_back_as_they_went(endpoint: Endpoint) -> None:
    values = [
        None,
        True,
        2**62,
        1.5,
        decimal.Decimal("12345678901234567890.123456789"),
        "naïve ☃ \\ ' %s",
        dt.date(2024, 2, 29),
        dt.timedelta(days=-3, microseconds=1),
        [1, None, 3],
    ]
    conn = connect(endpoint)
    for value in values:
        assert fetch(conn, "SELECT %s", [value]) == [(value,)]
    assert bytes(fetch(conn, "SELECT %s::bytea", [b"\x00\xff"])[0][0]) == b"\x00\xff"
    assert fetch(conn, "SELECT %s::jsonb", [psycopg2.extras.Json({"a": [None]})]) == [({"a": [None]},)]
    conn.close()


def test_transactions_and_savepoints(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int PRIMARY KEY)")
    one.commit()
    fetch(one, "INSERT INTO t VALUES (1); SAVEPOINT s")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        fetch(one, "INSERT INTO t VALUES (2), (1)")
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        fetch(one, "SELECT 1")
    fetch(one, "ROLLBACK TO s")
    with one.cursor() as cursor:
        psycopg2.extras.execute_values(cursor, "INSERT INTO t VALUES %s", [(a,) for a in range(10, 20)])
    one.commit()
    fetch(two, "DELETE FROM t")
    two.rollback()
    assert fetch(two, "SELECT count(*), max(a) FROM t") == [(11, 19)]
    assert narrow_endpoint.pins() == []


def test_a_cursor_on_the_server(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    with one.cursor("numbers") as cursor:
        cursor.itersize = 50
        cursor.execute("SELECT generate_series(1, 500)")
        assert sum(row[0] for row in cursor) == 125250
    one.commit()
    held = one.cursor("held", withhold=True)
    held.execute("SELECT generate_series(1, 5)")
    one.commit()
    assert held.fetchmany(2) == [(1,), (2,)]
    held.close()
    one.commit()
    assert fetch(two, "SELECT 1") == [(1,)]


def test_copy_in_and_out(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int, b text)")
    with one.cursor() as cursor:
        cursor.copy_from(io.StringIO("".join(f"{a}\tx{a}\n" for a in range(5000))), "t")
    one.commit()
    with pytest.raises(psycopg2.errors.InvalidTextRepresentation), one.cursor() as cursor:
        cursor.copy_expert("COPY t FROM STDIN", io.StringIO("wrong\ty\n" * 10_000))
    one.rollback()
    out = io.StringIO()
    with two.cursor() as cursor:
        cursor.copy_expert("COPY t TO STDOUT (FORMAT csv)", out)
    assert out.getvalue().splitlines() == [f"{a},x{a}" for a in range(5000)]
    assert narrow_endpoint.pins() == []


def test_notifications(endpoint: Endpoint) -> None:
    listener, sender = connect(endpoint), connect(endpoint)
    for conn in (listener, sender):
        conn.autocommit = True
    fetch(listener, "LISTEN news")
    fetch(sender, "NOTIFY news, 'one'")
    assert select.select([listener], [], [], 20)[0] == [listener]
    listener.poll()
    assert [(notify.channel, notify.payload) for notify in listener.notifies] == [("news", "one")]
    listener.close()
    sender.close()


def test_two_phase_commits(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair
    fetch(one, "CREATE TABLE t (a int)")
    one.commit()
    one.tpc_begin(one.xid(7, narrow_endpoint.database.name, "branch"))
    fetch(one, "INSERT INTO t VALUES (1)")
    one.tpc_prepare()
    one.reset()
    (pending,) = [xid for xid in two.tpc_recover() if xid.database == narrow_endpoint.database.name]
    two.rollback()
    two.tpc_commit(pending)
    assert fetch(two, "SELECT a FROM t") == [(1,)]
    assert narrow_endpoint.pins() == []


def test_cancelling_and_timeouts(narrow_endpoint: Endpoint, pair: Any) -> None:
    one, two = pair

    def cancel() -> None:
        narrow_endpoint.wait_for_sleeper()
        one.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(psycopg2.errors.QueryCanceled, match="due to user request"):
        fetch(one, "SELECT pg_sleep(600)")
    canceller.join()
    one.rollback()
    hasty = connect(narrow_endpoint, options="-c statement_timeout=400")
    with pytest.raises(psycopg2.errors.QueryCanceled, match="statement timeout"):
        fetch(hasty, "SELECT pg_sleep(600)")
    hasty.close()
    assert fetch(two, "SELECT 1 FROM pg_sleep(0.7)") == [(1,)]


def test_an_asynchronous_connection(narrow_endpoint: Endpoint) -> None:
    conn = connect(narrow_endpoint, async_=True)
    psycopg2.extras.wait_select(conn)
    with conn.cursor() as cursor:
        cursor.execute("SELECT 7")
        psycopg2.extras.wait_select(conn)
        assert cursor.fetchall() == [(7,)]
    conn.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1/0", psycopg2.errors.DivisionByZero),
        ("SELECT * FROM nowhere", psycopg2.errors.UndefinedTable),
        ("SELEC 1", psycopg2.errors.SyntaxError),
    ],
)
def test_errors_have_their_own_classes(pair: Any, statement: str, error: type[Exception]) -> None:
    for conn in pair:
        with pytest.raises(error):
            fetch(conn, statement)
        conn.rollback()
        assert fetch(conn, "SELECT 1") == [(1,)]
        conn.commit()


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
