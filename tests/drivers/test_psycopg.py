"""psycopg 3, blocking."""

from __future__ import annotations

import datetime as dt
import decimal
import ipaddress
import threading
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg.types.range import Range
from tests.drivers.endpoints import CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint, in_threads

Conn = psycopg.Connection[tuple[Any, ...]]

VALUES = [
    None,
    True,
    -(2**62),
    1.5,
    decimal.Decimal("12345678901234567890.123456789"),
    "naïve ☃ \\ ' \" $1 %s",
    b"\x00\xff" * 50,
    dt.date(2024, 2, 29),
    dt.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=dt.UTC),
    dt.timedelta(days=-3, microseconds=1),
    uuid.UUID(int=7),
    ipaddress.ip_network("10.0.0.0/8"),
    [1, None, 3],
    [[1, 2], [3, 4]],
    Range(dt.date(2024, 1, 1), dt.date(2024, 3, 1)),
]


def connect(endpoint: Endpoint, **keywords: Any) -> Conn:
    return psycopg.connect(**endpoint.parameters, connect_timeout=60, **keywords)


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint) -> None:
    with (
        connect(narrow_endpoint) as one,
        connect(narrow_endpoint, application_name="shop", options="-c jit=off") as two,
    ):
        for conn in (one, two, one, two):
            assert conn.execute("SELECT 1").fetchone() == (1,)
            conn.commit()
        assert two.execute("SHOW application_name").fetchone() == ("shop",)
        assert two.execute("SHOW jit").fetchone() == ("off",)
    assert narrow_endpoint.pins() == []


def test_the_session_looks_the_same(both_endpoints: tuple[Endpoint, Endpoint]) -> None:
    def look(parameters: dict[str, Any]) -> dict[str, Any]:
        with psycopg.connect(**parameters) as conn:
            names = "server_version client_encoding TimeZone DateStyle IntervalStyle integer_datetimes is_superuser "
            names += "session_authorization standard_conforming_strings default_transaction_read_only in_hot_standby "
            names += "application_name search_path server_encoding scram_iterations"
            rows = conn.execute("SELECT name, setting FROM pg_settings WHERE source <> 'override' ORDER BY name")
            settings = dict(rows.fetchall())
            return settings | {f"reported {name}": conn.info.parameter_status(name) for name in names.split()}

    direct, proxied = both_endpoints
    assert look(proxied.parameters) == look(direct.parameters)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_values_come_back_as_they_went(endpoint: Endpoint, binary: bool) -> None:
    with connect(endpoint) as conn:
        for value in VALUES:
            got = conn.execute("SELECT %s", [value], binary=binary).fetchone()
            assert got == (value,)
        document = {"a": [1, {"b": None}], "ü": "☃"}
        assert conn.execute("SELECT %s", [Jsonb(document)], binary=binary).fetchone() == (document,)


def test_rows_are_created_read_updated_and_deleted(endpoint: Endpoint) -> None:
    with connect(endpoint) as conn:
        conn.execute("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, name text)")
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO t (name) VALUES (%s) RETURNING id", [["a"], ["b"], ["c"]], returning=True)
            assert [result.fetchone() for result in cursor.results()] == [(1,), (2,), (3,)]
        assert conn.execute("UPDATE t SET name = name || '!' WHERE id > 1").rowcount == 2
        assert conn.execute("DELETE FROM t WHERE id = 3").rowcount == 1
        conn.commit()
        assert conn.execute("SELECT id, name FROM t ORDER BY id").fetchall() == [(1, "a"), (2, "b!")]


def test_transactions_and_savepoints(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True) as conn, connect(narrow_endpoint, autocommit=True) as other:
        conn.execute("CREATE TABLE t (a int PRIMARY KEY)")
        with conn.transaction():
            conn.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(psycopg.errors.UniqueViolation), conn.transaction():  # noqa: PT012
                conn.execute("INSERT INTO t VALUES (2)")
                conn.execute("INSERT INTO t VALUES (1)")
            with conn.transaction(force_rollback=True):
                conn.execute("INSERT INTO t VALUES (3)")
            conn.execute("INSERT INTO t VALUES (4)")
        with conn.transaction(force_rollback=True):
            conn.execute("INSERT INTO t VALUES (5)")
        assert other.execute("SELECT a FROM t ORDER BY a").fetchall() == [(1,), (4,)]
    assert narrow_endpoint.pins() == []


def test_transaction_characteristics(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint) as one, connect(narrow_endpoint) as two:
        one.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        one.read_only = True
        one.deferrable = True
        assert one.execute("SELECT current_setting('transaction_isolation')").fetchone() == ("serializable",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            one.execute("CREATE TABLE t ()")
        one.rollback()
        assert two.execute("SELECT current_setting('transaction_isolation')").fetchone() == ("read committed",)
        two.execute("CREATE TABLE t ()")


def test_conflicting_serializable_transactions(endpoint: Endpoint) -> None:
    with connect(endpoint) as one, connect(endpoint) as two:
        one.execute("CREATE TABLE t (a int)")
        one.execute("INSERT INTO t VALUES (0)")
        one.commit()
        for conn in (one, two):
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            assert conn.execute("SELECT a FROM t").fetchone() == (0,)
        one.execute("UPDATE t SET a = a + 1")
        one.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            two.execute("UPDATE t SET a = a + 1")
        two.rollback()
        two.execute("UPDATE t SET a = a + 1")
        two.commit()
        assert one.execute("SELECT a FROM t").fetchone() == (2,)


def test_prepared_statements_of_many_clients(narrow_endpoint: Endpoint) -> None:
    conns = [connect(narrow_endpoint, autocommit=True, prepare_threshold=0) for _ in range(6)]
    try:
        for turn in range(10):
            for number, conn in enumerate(conns):
                assert conn.execute("SELECT %s::int * 2", [turn]).fetchone() == (turn * 2,)
                # The same name in each client, but not the same text.
                assert conn.execute(f"SELECT {number} + %s::int", [turn]).fetchone() == (number + turn,)
    finally:
        for conn in conns:
            conn.close()
    assert narrow_endpoint.pins() == []


def test_more_prepared_statements_than_the_driver_keeps(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True, prepare_threshold=0) as conn:
        conn.prepared_max = 5
        for turn in range(3):
            for number in range(20):
                assert conn.execute(f"SELECT {number} + %s::int", [turn]).fetchone() == (number + turn,)
        conn.execute("DEALLOCATE ALL")
        assert conn.execute("SELECT 1 + %s::int", [1], prepare=True).fetchone() == (2,)


def test_a_prepared_statement_meets_a_changed_table(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True) as one, connect(narrow_endpoint, autocommit=True) as two:
        one.execute("CREATE TABLE t (a int)")
        one.execute("INSERT INTO t VALUES (1)")
        assert two.execute("SELECT * FROM t", prepare=True).fetchone() == (1,)
        one.execute("ALTER TABLE t ADD b text DEFAULT 'new'")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
            two.execute("SELECT * FROM t")
        with connect(narrow_endpoint) as three:
            assert three.execute("SELECT * FROM t", prepare=True).fetchone() == (1, "new")


def test_a_pipeline(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True) as conn, connect(narrow_endpoint, autocommit=True) as other:
        conn.execute("CREATE TABLE t (a int PRIMARY KEY)")
        with conn.pipeline():
            cursors = [conn.execute("INSERT INTO t VALUES (%s) RETURNING a", [a], prepare=True) for a in range(50)]
            assert [cursor.fetchone() for cursor in cursors] == [(a,) for a in range(50)]
        with pytest.raises(psycopg.errors.UniqueViolation), conn.pipeline() as pipeline:  # noqa: PT012
            conn.execute("INSERT INTO t VALUES (100)")
            pipeline.sync()
            conn.execute("INSERT INTO t VALUES (101)")
            conn.execute("INSERT INTO t VALUES (1)")
            conn.execute("INSERT INTO t VALUES (102)")
            pipeline.sync()
        assert other.execute("SELECT a FROM t WHERE a > 49").fetchall() == [(100,)]
        with conn.pipeline(), conn.transaction():
            conn.execute("INSERT INTO t VALUES (200)")
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (52,)
    assert narrow_endpoint.pins() == []


def test_copy_in_and_out(narrow_endpoint: Endpoint) -> None:
    rows = [(number, f"text\t{number}\n\\") for number in range(5000)]
    with connect(narrow_endpoint, autocommit=True) as conn, connect(narrow_endpoint, autocommit=True) as other:
        conn.execute("CREATE TABLE t (a int, b text)")
        with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for row in rows:
                copy.write_row(row)
        with other.cursor() as cursor, cursor.copy("COPY (SELECT * FROM t ORDER BY a) TO STDOUT") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows
    assert narrow_endpoint.pins() == []


def test_a_copy_that_fails_on_either_side(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True) as conn, connect(narrow_endpoint, autocommit=True) as other:
        conn.execute("CREATE TABLE t (a int)")
        with (  # noqa: PT012
            pytest.raises(ZeroDivisionError),
            conn.cursor() as cursor,
            cursor.copy("COPY t FROM STDIN") as copy,
        ):
            copy.write("1\n" * 1000)
            raise ZeroDivisionError
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            conn.cursor() as cursor,
            cursor.copy("COPY t FROM STDIN") as copy,
        ):
            copy.write("wrong\n" + "1\n" * 100_000)
        with (
            pytest.raises(psycopg.errors.DivisionByZero),
            conn.cursor() as cursor,
            cursor.copy("COPY (SELECT 1 / (5000 - a) FROM generate_series(1, 9999) a) TO STDOUT") as copy,
        ):
            for _ in copy:
                pass
        for one in (other, conn):
            assert one.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_cursors_on_the_server(endpoint: Endpoint) -> None:
    with connect(endpoint) as conn:
        with conn.cursor("numbers", scrollable=True) as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 1000)")
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(10)
            assert cursor.fetchone() == (14,)
            assert sum(row[0] for row in cursor) == sum(range(15, 1001))
        conn.commit()
        held = conn.cursor("held", withhold=True)
        held.execute("SELECT generate_series(1, 10)")
        conn.commit()
        assert held.fetchmany(2) == [(1,), (2,)]
        conn.commit()
        assert held.fetchone() == (3,)
        held.close()
        conn.commit()
        assert conn.execute("SELECT 1").fetchone() == (1,)
    if endpoint.proxy is not None:
        assert len(endpoint.pins()) == 2, "pinned once, by the cursor that outlives its transaction, and unpinned"


@pytest.mark.parametrize("size", [1, 100])
def test_streaming_rows(endpoint: Endpoint, size: int) -> None:
    with connect(endpoint) as conn, conn.cursor() as cursor:
        rows = cursor.stream("SELECT a, repeat('x', 1000) FROM generate_series(1, %s) a", [3000], size=size)
        assert sum(row[0] for row in rows) == sum(range(3001))


def test_large_values(narrow_endpoint: Endpoint) -> None:
    value = bytes(range(256)) * 40_000
    with connect(narrow_endpoint) as conn, connect(narrow_endpoint) as other:
        conn.execute("CREATE TABLE t (a bytea)")
        conn.execute("INSERT INTO t VALUES (%b)", [value])
        conn.commit()
        for binary in (True, False):
            assert other.execute("SELECT a FROM t", binary=binary).fetchone() == (value,)


def test_two_phase_commits(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint) as one, connect(narrow_endpoint) as two:
        one.execute("CREATE TABLE t (a int)")
        one.commit()
        name = narrow_endpoint.database.name
        for value, branch in enumerate(["kept", "dropped"]):
            one.tpc_begin(one.xid(7, name, branch))
            one.execute("INSERT INTO t VALUES (%s)", [value])
            one.tpc_prepare()
            one.close() if value else one.tpc_commit()
        assert [xid.bqual for xid in two.tpc_recover() if xid.database == name] == ["dropped"]
        two.rollback()
        two.tpc_rollback(two.xid(7, name, "dropped"))
        assert two.execute("SELECT a FROM t").fetchall() == [(0,)]
    assert narrow_endpoint.pins() == []


def test_notifications(endpoint: Endpoint) -> None:
    with connect(endpoint, autocommit=True) as listener, connect(endpoint) as sender:
        listener.execute("LISTEN news")
        for payload in ("one", "two"):
            sender.execute("SELECT pg_notify('news', %s)", [payload])
        sender.commit()
        heard = [notify.payload for notify in listener.notifies(timeout=60, stop_after=2)]
        assert heard == ["one", "two"]
        listener.execute("UNLISTEN *")
        sender.execute("NOTIFY news")
        sender.commit()
        assert list(listener.notifies(timeout=0)) == []


def test_notices_arrive(endpoint: Endpoint) -> None:
    with connect(endpoint, autocommit=True) as conn:
        heard: list[tuple[str | None, str | None]] = []
        conn.add_notice_handler(lambda diagnostic: heard.append((diagnostic.severity, diagnostic.message_primary)))
        conn.execute("DO $$ BEGIN RAISE NOTICE 'first'; RAISE WARNING 'second'; END $$")
        assert heard == [("NOTICE", "first"), ("WARNING", "second")]


def failures(parameters: dict[str, Any]) -> list[tuple[object, ...]]:
    statements = [
        "SELECT 1/0",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "INSERT INTO t VALUES (1), (1)",
        "INSERT INTO t VALUES (null)",
        "SELECT 'x'::int",
        "SET work_mem TO 'lots'",
        "SET no_such_parameter TO 1",
        "SELECT pg_read_file('/etc/hostname')",
        "DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'ZZ001', HINT = 'a hint', DETAIL = 'a detail'; END $$",
        "COMMIT PREPARED 'none'",
        "DEALLOCATE none",
        "SAVEPOINT s",
    ]
    seen: list[tuple[object, ...]] = []
    with psycopg.connect(**parameters, autocommit=True) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS t (a int PRIMARY KEY)")
        for statement in statements:
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(statement)
            d = raised.value.diag
            fields = (d.sqlstate, d.severity, d.message_primary, d.message_detail, d.message_hint, d.statement_position)
            seen.append((statement, type(raised.value), *fields, d.table_name, d.constraint_name, d.context))
    return seen


def test_errors_are_the_same(both_endpoints: tuple[Endpoint, Endpoint]) -> None:
    direct, proxied = both_endpoints
    assert failures(proxied.parameters) == failures(direct.parameters)


def test_cancelling_from_another_thread(narrow_endpoint: Endpoint) -> None:
    with connect(narrow_endpoint, autocommit=True) as conn:

        def cancel() -> None:
            narrow_endpoint.wait_for_sleeper()
            conn.cancel_safe(timeout=60)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled, match="due to user request"):
            conn.execute("SELECT pg_sleep(600)")
        canceller.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_statement_timeouts(narrow_endpoint: Endpoint) -> None:
    hasty_options = "-c statement_timeout=400"
    with connect(narrow_endpoint, options=hasty_options) as hasty, connect(narrow_endpoint) as calm:
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            hasty.execute("SELECT pg_sleep(600)")
        hasty.rollback()
        assert calm.execute("SELECT 1 FROM pg_sleep(0.7)").fetchone() == (1,)
        calm.execute("SET statement_timeout TO 450")
        calm.commit()
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            calm.execute("SELECT pg_sleep(600)")
        calm.rollback()
        hasty.execute("SET LOCAL statement_timeout TO 0")
        assert hasty.execute("SELECT 1 FROM pg_sleep(0.7)").fetchone() == (1,)
    assert narrow_endpoint.pins() == []


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    with connect(endpoint) as conn:
        for statement in CREATE_LEDGER:
            conn.execute(statement)

    def work(client: int) -> None:
        with connect(endpoint) as conn:
            for turn in range(ROUNDS):
                for fate in (conn.rollback, conn.commit):
                    conn.execute("INSERT INTO entries VALUES (%s, %s)", [client, turn])
                    conn.execute("UPDATE counter SET n = n + 1")
                    fate()

    in_threads(work)
    with connect(endpoint) as conn:
        assert conn.execute(LEDGER_TOTALS).fetchone() == FULL_LEDGER
    if endpoint.proxy is not None:
        assert endpoint.server_connections() <= 2
    assert endpoint.pins() == []
