"""`transaction()`: run again exactly where it is safe, so that no work is lost and none is doubled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.rows import TupleRow
from tests.lambda_layer.helpers import Context, backend_of, connected, plain_connection, terminate
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate
from tidegate.retry import Bucket

Connection = psycopg.Connection[TupleRow]


@pytest.fixture
def counted(database: Database) -> Database:
    """A database with a table of one row, to be counted up."""
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE counter (id int PRIMARY KEY, value bigint NOT NULL)")
        conn.execute("INSERT INTO counter VALUES (1, 0), (2, 0)")
    return database


def increment(conn: Connection, row: int = 1) -> None:
    conn.execute("UPDATE counter SET value = value + 1 WHERE id = %s", (row,))


def value_of(database: Database, row: int = 1) -> int:
    with database.server.connect(dbname=database.name) as conn:
        found = conn.execute("SELECT value FROM counter WHERE id = %s", (row,)).fetchone()
    assert found is not None
    return int(found[0])


def test_arguments_go_in_and_the_answer_comes_out(counted: Database) -> None:
    def work(conn: Connection, row: int, *, more: str) -> tuple[int, str]:
        increment(conn, row)
        return row, more

    with connected(counted) as db:
        assert db.transaction(work, 2, more="x") == (2, "x")
    assert value_of(counted, 2) == 1


def test_the_functions_own_exception_rolls_back_and_is_not_retried(counted: Database) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        increment(conn)
        raise KeyError("mine")

    with connected(counted) as db, pytest.raises(KeyError):
        db.transaction(work)
    assert (len(runs), value_of(counted)) == (1, 0)


def test_an_error_that_would_come_again_is_not_retried(counted: Database) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute("INSERT INTO counter VALUES (1, 0)")

    with connected(counted) as db, pytest.raises(psycopg.errors.UniqueViolation):
        db.transaction(work)
    assert len(runs) == 1


def test_psycopgs_rollback_ends_the_transaction_quietly(counted: Database) -> None:
    def work(conn: Connection) -> int:
        increment(conn)
        raise psycopg.Rollback

    with connected(counted) as db:
        assert db.transaction(work) is None
    assert value_of(counted) == 0


def test_a_serialization_failure_runs_the_whole_function_again(counted: Database) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT value FROM counter WHERE id = 1").fetchone()
        if len(runs) == 1:
            with plain_connection(counted) as rival:
                increment(rival)
        increment(conn)

    with connected(counted) as db:
        db.transaction(work)
    assert (len(runs), value_of(counted)) == (2, 2)


def test_a_deadlock_runs_the_victim_again(counted: Database) -> None:
    both_hold_one = threading.Barrier(2, timeout=60)
    runs: list[int] = []

    def work(conn: Connection, first: int, second: int) -> None:
        runs.append(first)
        increment(conn, first)
        if runs.count(first) == 1:
            both_hold_one.wait()
        increment(conn, second)

    with connected(counted) as one, connected(counted) as two:
        rival = threading.Thread(target=lambda: two.transaction(work, 2, 1))
        rival.start()
        one.transaction(work, 1, 2)
        rival.join()
    # More where the victim is back before the other has gone on.
    assert len(runs) >= 3
    assert (value_of(counted, 1), value_of(counted, 2)) == (2, 2)


def test_a_connection_lost_before_commit_runs_the_function_again_on_a_new_one(counted: Database) -> None:
    pids: list[int] = []

    def work(conn: Connection) -> None:
        pids.append(conn.info.backend_pid)
        increment(conn)
        if len(pids) == 1:
            terminate(counted, conn.info.backend_pid)
            increment(conn)

    with connected(counted) as db:
        db.transaction(work)
    assert len(set(pids)) == 2
    assert value_of(counted) == 1


def test_a_connection_lost_unnoticed_before_commit_is_seen_before_commit_is_sent(counted: Database) -> None:
    pids: list[int] = []

    def work(conn: Connection) -> None:
        pids.append(conn.info.backend_pid)
        increment(conn)
        if len(pids) == 1:
            terminate(counted, conn.info.backend_pid)

    with connected(counted) as db:
        db.transaction(work)
        assert (len(pids), value_of(counted)) == (2, 1)
        pids.clear()
        with pytest.raises(psycopg.errors.ConnectionFailure, match="nothing was committed"), db.connection() as conn:
            work(conn)
        assert value_of(counted) == 1


def test_a_stale_connection_at_begin_is_replaced(counted: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(counted.server.port)
    with connected(counted, port=relay.port) as db:
        relay.reset_at(b"BEGIN", after_answer=False)
        db.transaction(increment)
        relay.reset_at(b"BEGIN", after_answer=True)
        db.transaction(increment)
    assert value_of(counted) == 2


@pytest.mark.parametrize("after_answer", [False, True], ids=["never arrived", "committed, answer lost"])
@pytest.mark.parametrize("form", ["transaction", "connection"])
def test_a_reset_at_commit_is_never_retried(
    counted: Database, relay_to: Callable[[int], Relay], after_answer: bool, form: str
) -> None:
    relay = relay_to(counted.server.port)
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        increment(conn)

    def in_block(db: tidegate.Database) -> None:
        with db.connection() as conn:
            work(conn)

    forms = {"transaction": lambda db: db.transaction(work), "connection": in_block}
    with connected(counted, port=relay.port) as db:
        relay.reset_at(b"COMMIT", after_answer=after_answer)
        with pytest.raises(tidegate.CommitOutcomeUnknown) as caught:
            forms[form](db)
        assert isinstance(caught.value, psycopg.OperationalError)
        assert len(runs) == 1
        # The server may still be at it when its connection is lost.
        eventually(lambda: value_of(counted) == int(after_answer))
        db.transaction(work)
    assert value_of(counted) == int(after_answer) + 1


def test_an_error_at_commit_is_a_definite_no(counted: Database) -> None:
    def work(conn: Connection) -> None:
        conn.execute("CREATE TABLE twice (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        conn.execute("INSERT INTO twice VALUES (1), (1)")

    with connected(counted) as db:
        with pytest.raises(psycopg.errors.UniqueViolation):
            db.transaction(work)
        with pytest.raises(psycopg.errors.UniqueViolation), db.connection() as conn:
            work(conn)
        assert backend_of(db) == conn.info.backend_pid


def test_a_failed_transaction_is_not_passed_off_as_committed(counted: Database) -> None:
    def work(conn: Connection) -> str:
        increment(conn)
        try:
            conn.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            return "all is well"
        raise AssertionError("a division by zero went through")

    with connected(counted) as db, pytest.raises(psycopg.errors.InFailedSqlTransaction, match="caught"):
        db.transaction(work)
    assert value_of(counted) == 0


@pytest.mark.parametrize("how", [lambda conn: conn.commit(), lambda conn: conn.execute("COMMIT")], ids=["api", "sql"])
def test_a_function_that_ends_its_transaction_itself_is_told_so(
    counted: Database, how: Callable[[Connection], Any]
) -> None:
    with connected(counted) as db, pytest.raises((tidegate.TidegateError, psycopg.ProgrammingError)):
        db.transaction(how)


@pytest.mark.parametrize("statement", ["COMMIT", " commit and chain", "END", "ROLLBACK", "ABORT"])
def test_what_a_function_committed_itself_is_never_run_again(counted: Database, statement: str) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        increment(conn)
        conn.execute(statement)
        terminate(counted, conn.info.backend_pid)
        conn.execute("SELECT 1")

    with connected(counted) as db, pytest.raises(psycopg.ProgrammingError, match="commits or rolls back when"):
        db.transaction(work)
    assert runs == [1]
    assert value_of(counted) == 0


def test_a_savepoint_is_the_functions_own(counted: Database) -> None:
    def work(conn: Connection) -> None:
        conn.execute("SAVEPOINT here")
        conn.execute("ROLLBACK TO SAVEPOINT here")
        conn.execute("ROLLBACK WORK TO here")

    with connected(counted) as db:
        db.transaction(work)


def test_when_no_time_is_left_the_last_error_is_raised(counted: Database) -> None:
    def work(conn: Connection) -> None:
        conn.execute("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")

    with (
        connected(counted) as db,
        pytest.raises(psycopg.errors.SerializationFailure),
        db.invocation(Context(1.5)),
    ):
        db.transaction(work)


def raises_once(runs: list[int], sqlstate: str) -> Callable[[Connection], None]:
    def work(conn: Connection) -> None:
        runs.append(1)
        increment(conn)
        if len(runs) == 1:
            conn.execute(f"DO $$ BEGIN RAISE EXCEPTION 'once' USING ERRCODE = '{sqlstate}'; END $$")

    return work


@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "53300", "57P01", "57P02", "57P03", "57P05", "08006", "08P01"])
def test_what_passes_is_run_again(counted: Database, sqlstate: str) -> None:
    runs: list[int] = []
    with connected(counted) as db:
        db.transaction(raises_once(runs, sqlstate))
    assert (len(runs), value_of(counted)) == (2, 1)


@pytest.mark.parametrize("sqlstate", ["3D000", "42P01", "42501", "28000", "28P01", "23505", "22012", "57014", "53100"])
def test_what_stays_is_raised_at_once(counted: Database, sqlstate: str) -> None:
    runs: list[int] = []
    with connected(counted) as db, pytest.raises(psycopg.Error) as caught:
        db.transaction(raises_once(runs, sqlstate))
    assert caught.value.sqlstate == sqlstate
    assert (len(runs), value_of(counted)) == (1, 0)


def test_retries_are_rationed_over_all_invocations_of_an_environment(counted: Database) -> None:
    runs: list[int] = []

    def never(conn: Connection) -> None:
        runs.append(1)
        conn.execute("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")

    with connected(counted, retry_attempts=2, retry_burst=3, retry_rate=0) as db:
        for expected, reason in ((3, "retry_attempts=2"), (2, "too many retries"), (1, "too many retries")):
            runs.clear()
            with pytest.raises(psycopg.errors.SerializationFailure) as caught:
                db.transaction(never)
            assert len(runs) == expected
            assert reason in "".join(caught.value.__notes__)


def test_the_ration_grows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Bucket(attempts=100, burst=2, rate=0.5)
    assert [bucket.refuse(1) is None for _ in range(3)] == [True, True, False]
    now += 2.0
    assert [bucket.refuse(1) is None for _ in range(2)] == [True, False]
    now += 1000.0
    assert [bucket.refuse(1) is None for _ in range(3)] == [True, True, False]


def test_retries_can_be_turned_off(counted: Database) -> None:
    runs: list[int] = []
    with connected(counted, retry_attempts=0) as db, pytest.raises(psycopg.errors.SerializationFailure):
        db.transaction(raises_once(runs, "40001"))
    assert len(runs) == 1
