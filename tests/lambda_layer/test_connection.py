"""`connection()`: a real psycopg connection, in a clean state, kept open, and costing nothing when reused."""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, dict_row
from tests.lambda_layer.helpers import Context, backend_of, connected, plain_connection, readable
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate


def test_the_block_commits_and_the_connection_stays_open(database: Database) -> None:
    with connected(database) as db:
        with db.connection() as conn:
            conn.execute("CREATE TABLE t (n int)")
            conn.execute("INSERT INTO t VALUES (1)")
        with database.server.connect(dbname=database.name) as other:
            assert other.execute("SELECT n FROM t").fetchall() == [(1,)]
        with db.connection() as again:
            assert again is conn


def test_the_block_rolls_back_when_it_raises(database: Database) -> None:
    with connected(database) as db:
        with db.connection() as conn:
            conn.execute("CREATE TABLE t (n int)")
        with pytest.raises(psycopg.errors.DivisionByZero), db.connection() as conn:
            conn.execute("INSERT INTO t SELECT 1; SELECT 1/0")
        with db.connection() as conn:
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_it_is_the_function_that_shows_in_pg_stat_activity(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders-api")
    with connected(database) as db, db.connection() as conn:
        name = conn.execute("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        assert name.fetchone() == ("orders-api",)


def select_one(conn: psycopg.Connection[TupleRow]) -> None:
    conn.execute("SELECT 1").fetchone()


def test_reuse_sends_not_one_byte_more_than_psycopg_itself(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)

    def traffic(work: Callable[[], None]) -> tuple[int, int]:
        before = (relay.bytes_to_server, relay.bytes_to_client)
        work()
        return relay.bytes_to_server - before[0], relay.bytes_to_client - before[1]

    with plain_connection(database, port=relay.port) as plain:

        def by_hand() -> None:
            plain.execute("SELECT 1").fetchone()
            plain.commit()

        expected = traffic(by_hand)
    with connected(database, port=relay.port) as db:

        @db.handler
        def handler(event: object, context: object) -> None:
            with db.connection() as conn:
                conn.execute("SELECT 1").fetchone()

        for _ in range(3):
            assert traffic(lambda: handler({}, Context())) == expected
        assert relay.accepted == 2


def test_transaction_takes_as_many_round_trips_as_psycopg_itself(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:

        @db.handler
        def handler(event: object, context: object) -> None:
            db.transaction(select_one)

        for _ in range(3):
            before = relay.round_trips
            handler({}, Context())
            assert relay.round_trips - before == len(["BEGIN", "SELECT 1", "COMMIT"])


def test_a_long_idle_connection_is_pinged_and_kept(database: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port, idle_check=0) as db:
        with db.connection() as conn:
            pass
        sent = relay.bytes_to_server
        with db.connection() as again:
            assert again is conn
            assert relay.bytes_to_server > sent
            assert again.execute("SELECT 1").fetchone() == (1,)


def test_two_users_at_once_would_share_a_transaction_and_are_refused(database: Database) -> None:
    with connected(database) as db:
        with db.connection(), pytest.raises(tidegate.TidegateError, match="borrowed already"), db.connection():
            pass
        with db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_second_user_who_is_refused_leaves_the_first_ones_transaction_alone(database: Database) -> None:
    with connected(database) as db:
        with db.connection() as conn:
            conn.execute("CREATE TABLE kept (id int)")
            with pytest.raises(tidegate.TidegateError, match="borrowed already"):
                db.transaction(lambda _: None)
            with pytest.raises(tidegate.TidegateError, match="borrowed already"), db.connection():
                pass
        with db.connection() as conn:
            assert conn.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_outside_invocations_another_thread_gets_the_connection_only_when_it_is_clean(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        first: list[psycopg.Connection[TupleRow]] = []
        go_on = threading.Event()

        def change_the_session() -> None:
            with db.connection() as conn:
                conn.autocommit = True
                conn.execute("SET work_mem = '123kB'")
                first.append(conn)
                go_on.wait(30)
                relay.stall()

        thread = threading.Thread(target=change_the_session)
        thread.start()
        eventually(lambda: first)
        go_on.set()
        # The session is being reset, and the answer does not come.
        eventually(lambda: first[0].pgconn.transaction_status == TransactionStatus.ACTIVE)
        with pytest.raises(tidegate.TidegateError, match="borrowed already"), db.connection():
            pass
        relay.resume()
        thread.join(30)
        with db.connection() as conn:
            assert conn.execute("SHOW work_mem").fetchone() == ("4MB",)


def test_what_the_handler_set_on_the_connection_does_not_reach_the_next_invocation(database: Database) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()), db.connection() as conn:
            conn.autocommit = True
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            conn.read_only = True
            conn.deferrable = True
            conn.row_factory = dict_row  # type: ignore[assignment]
            conn.cursor_factory = psycopg.ClientCursor
        with db.invocation(Context()), db.connection() as conn:
            assert conn.info.backend_pid == pid
            assert (conn.autocommit, conn.isolation_level, conn.read_only, conn.deferrable) == (False, None, None, None)
            assert conn.execute("SELECT 1").fetchone() == (1,)
            assert isinstance(conn.cursor(), psycopg.Cursor)
            assert not isinstance(conn.cursor(), psycopg.ClientCursor)


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1/0"], ids=["in progress", "failed"])
def test_a_transaction_that_the_handler_left_open_is_rolled_back_with_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()):
            with db.connection() as conn:
                pass
            try:
                conn.execute(statement)
            except psycopg.errors.DivisionByZero:
                assert statement == "SELECT 1/0"
        assert [(r.name, r.levelno) for r in caplog.records] == [("tidegate", logging.WARNING)]
        assert "left in a transaction" in caplog.text
        with db.connection() as conn:
            assert conn.pgconn.transaction_status == TransactionStatus.IDLE
            assert conn.info.backend_pid == pid


def test_a_connection_left_in_pipeline_mode_is_replaced_with_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()), db.connection() as conn:
            conn.pgconn.enter_pipeline_mode()
        assert "left in pipeline mode" in caplog.text
        assert backend_of(db) != pid


def test_a_connection_left_in_the_middle_of_copy_is_replaced_with_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()):
            with db.connection() as conn:
                pass
            conn.pgconn.exec_(b"COPY (SELECT 1) TO STDOUT")
        assert "left in state ACTIVE" in caplog.text
        assert backend_of(db) != pid


def test_a_block_that_never_ended_does_not_block_the_next_invocation(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(database) as db:
        block = db.connection()
        with db.invocation(Context()):
            block.__enter__().execute("SELECT 1")
        assert "inside a connection() block" in caplog.text
        with db.invocation(Context()), db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_notification_that_came_while_idle_is_kept_and_so_is_the_connection(database: Database) -> None:
    received: list[str] = []
    with connected(database) as db, db.invocation():
        with db.connection() as conn:
            conn.execute("LISTEN news")
            conn.add_notify_handler(lambda notify: received.append(notify.payload))
        with plain_connection(database) as other:
            other.execute("NOTIFY news, 'hello'")
        assert readable(conn)
        with db.connection() as again:
            assert again is conn
            again.execute("SELECT 1")
        assert received == ["hello"]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


NOTICE = message(b"N", b"SNOTICE\0VNOTICE\0C00000\0Mmaintenance tonight\0\0")
FATAL = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0")
PARAMETER = message(b"S", b"application_name\0renamed\0")


def test_a_notice_and_a_changed_parameter_that_came_while_idle_are_no_reason_to_reconnect(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    # PostgreSQL itself holds parameters back until the next query; poolers do not.
    relay = relay_to(database.server.port)
    notices: list[str | None] = []
    with connected(database, port=relay.port) as db:
        with db.connection() as conn:
            conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
        for received in (PARAMETER + NOTICE[:9], NOTICE[9:]):
            relay.send_to_clients(received)
            assert readable(conn)
            with db.connection() as again:
                assert again is conn
        assert conn.info.parameter_status("application_name") == "renamed"
        assert notices == ["maintenance tonight"]
        assert again.execute("SELECT 1").fetchone() == (1,)
        again.rollback()


def test_an_announced_end_counts_even_before_the_socket_is_closed(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        with db.connection() as conn:
            pass
        relay.send_to_clients(FATAL)
        assert readable(conn)
        with db.connection() as again:
            assert again is not conn


def test_it_works_without_lambda_and_reopens_after_close(database: Database) -> None:
    with connected(database) as db:
        first = backend_of(db)
        db.close()
        assert "not connected" in repr(db)
        assert backend_of(db) != first


def test_the_handler_keeps_its_name_its_answer_and_its_exceptions(database: Database) -> None:
    with connected(database) as db:

        @db.handler
        def handler(event: dict[str, int], context: Context) -> int:
            """Adds one."""
            with db.invocation(context):  # inside another one: changes nothing
                return event["n"] + 1

        assert (handler.__name__, handler.__doc__) == ("handler", "Adds one.")
        assert handler({"n": 1}, Context()) == 2
        with pytest.raises(KeyError):
            handler({}, Context())
