"""Every wait ends at the invocation's deadline, whatever the server and the network do, and nothing runs on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from tests.lambda_layer.helpers import PATIENT, Context, backend_of, connected, plain_connection
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate

SHORT = 2.7
"""Seconds until Lambda would end the invocation; two of them are the margin of PATIENT."""


def busy_backends(database: Database) -> int:
    with database.server.connect() as admin:
        found = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state <> 'idle'", [database.name]
        ).fetchone()
    assert found is not None
    return int(found[0])


def sleep_by_execute(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT pg_sleep(60)")


def sleep_in_transaction(conn: psycopg.Connection[Any]) -> None:
    with conn.transaction():
        conn.execute("SELECT pg_sleep(60)")


def sleep_in_autocommit(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True
    conn.execute("SELECT pg_sleep(60)")


def sleep_in_stream(conn: psycopg.Connection[Any]) -> None:
    list(conn.cursor().stream("SELECT pg_sleep(60)"))


def sleep_in_server_cursor(conn: psycopg.Connection[Any]) -> None:
    with conn.cursor(name="slow") as cursor:
        cursor.execute("SELECT pg_sleep(60)")
        cursor.fetchone()


def sleep_in_pipeline(conn: psycopg.Connection[Any]) -> None:
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute("SELECT pg_sleep(60)")


def sleep_in_copy(conn: psycopg.Connection[Any]) -> None:
    with conn.cursor().copy("COPY (SELECT pg_sleep(60)) TO STDOUT") as copy:
        list(copy)


def endless_rows(conn: psycopg.Connection[Any]) -> None:
    for _ in conn.cursor().stream("SELECT n FROM generate_series(1, 1000000000) n"):
        pass


@pytest.mark.parametrize(
    "work",
    [
        sleep_by_execute,
        sleep_in_transaction,
        sleep_in_autocommit,
        sleep_in_stream,
        sleep_in_server_cursor,
        sleep_in_pipeline,
        sleep_in_copy,
        endless_rows,
    ],
)
def test_a_statement_that_still_runs_is_cancelled_on_the_server(
    database: Database, work: Callable[[psycopg.Connection[Any]], None]
) -> None:
    with connected(database, **PATIENT) as db:
        context = Context(SHORT)
        with pytest.raises(tidegate.DeadlineExceeded), db.invocation(context), db.connection() as conn:
            work(conn)
        # Lambda would have killed the process otherwise, before the handler could say anything.
        assert context.get_remaining_time_in_millis() > 0
        eventually(lambda: busy_backends(database) == 0, what="an end of the statement on the server")
        with db.invocation(Context()), db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_error_says_so_and_the_connection_is_kept(database: Database) -> None:
    with connected(database, **PATIENT) as db:
        pid = backend_of(db)
        with db.invocation(Context(SHORT)), db.connection() as conn:
            with pytest.raises(tidegate.DeadlineExceeded, match="cancelled on the server") as caught:
                conn.execute("SELECT pg_sleep(60)")
            assert isinstance(caught.value, psycopg.OperationalError)
            assert isinstance(caught.value.__cause__, psycopg.errors.QueryCanceled)
            conn.rollback()
        assert backend_of(db) == pid


def test_transaction_is_cancelled_rolled_back_and_not_run_again(database: Database) -> None:
    runs: list[int] = []

    def work(conn: psycopg.Connection[Any]) -> None:
        runs.append(1)
        conn.execute("CREATE TABLE t (n int)")
        conn.execute("SELECT pg_sleep(60)")

    with connected(database, **PATIENT) as db:
        with pytest.raises(tidegate.DeadlineExceeded), db.invocation(Context(SHORT)):
            db.transaction(work)
        assert len(runs) == 1
        with db.connection() as conn:
            assert conn.execute("SELECT to_regclass('t')").fetchone() == (None,)


def test_after_the_deadline_nothing_new_is_sent_but_what_was_done_is_still_committed(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port, **PATIENT) as db, db.invocation(Context(SHORT)), db.connection() as conn:
        conn.execute("CREATE TABLE t (n int)")
        eventually(lambda: conn.until <= time.monotonic())
        sent = relay.bytes_to_server
        with pytest.raises(tidegate.DeadlineExceeded, match="not sent"):
            conn.execute("INSERT INTO t VALUES (1)")
        assert relay.bytes_to_server == sent
        assert conn.pgconn.transaction_status == TransactionStatus.INTRANS
    with plain_connection(database) as other:
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.parametrize("trouble", ["black hole", "half open", "stalled"])
@pytest.mark.parametrize("form", ["connection", "transaction"])
def test_a_network_that_swallows_even_the_cancel_does_not_hold_the_handler(
    database: Database, relay_to: Callable[[int], Relay], trouble: str, form: str
) -> None:
    relay = relay_to(database.server.port)

    def work(conn: psycopg.Connection[Any]) -> None:
        if trouble == "black hole":
            relay.black_hole()
        elif trouble == "stalled":
            relay.stall()
        conn.execute("SELECT 'marked'")

    with connected(database, port=relay.port, connect_timeout=0.3, **PATIENT) as db:
        if trouble == "half open":
            relay.half_open_at(b"marked", after_answer=True)
        context = Context(SHORT)
        with pytest.raises(tidegate.DeadlineExceeded), db.invocation(context):  # noqa: PT012
            if form == "transaction":
                db.transaction(work)
            else:
                with db.connection() as conn:
                    work(conn)
        assert context.get_remaining_time_in_millis() > 0
        relay.resume()
        with db.invocation(Context()), db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_answer_that_arrives_slowly_but_in_time_is_taken(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    relay.split(lambda: 1)
    with connected(database, port=relay.port) as db, db.invocation(Context(30)), db.connection() as conn:
        assert conn.execute("SELECT repeat('x', 5000)").fetchone() == ("x" * 5000,)
    with connected(database, port=relay.port) as db, db.invocation(Context(30)), db.connection() as conn:
        relay.stall()
        # The time to resume is when the statement waits; half a second is far from its deadline.
        threading.Timer(0.5, relay.resume).start()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_statement_is_not_cancelled_where_that_is_turned_off_or_there_is_no_invocation(database: Database) -> None:
    with connected(database, statement_deadline=False) as db, db.invocation(Context(0.6)), db.connection() as conn:
        assert conn.execute("SELECT 1 FROM pg_sleep(0.4)").fetchone() == (1,)
    with connected(database, default_timeout=0.2) as db, db.connection() as conn:
        assert conn.execute("SELECT 1 FROM pg_sleep(0.4)").fetchone() == (1,)


def test_a_look_up_that_hangs_is_bounded_too(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        free.wait(60)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    context = Context(SHORT)
    try:
        with (
            connected(database, host="db.example", init_timeout=0.1, **PATIENT) as db,
            pytest.raises(tidegate.DeadlineExceeded, match=r"look up db\.example"),
            db.invocation(context),
        ):
            backend_of(db)
        assert context.get_remaining_time_in_millis() > 0
    finally:
        free.set()


def test_no_thread_and_no_timer_stands_behind_it(database: Database) -> None:
    before = threading.active_count()
    with connected(database) as db, db.invocation(Context()), db.connection() as conn:
        conn.execute("SELECT 1")
        assert threading.active_count() == before
