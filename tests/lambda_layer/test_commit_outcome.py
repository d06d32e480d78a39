"""A COMMIT whose answer is lost: found out on another connection where possible, and never guessed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import PATIENT, Context, connected, plain_connection
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate
from tidegate.retry import commit_outcome_unknown
from tidegate_load.postgres import EmbeddedPostgres

COMMITTED = b"COMMIT\0"
"""The tag in the server's answer; what came before it in the stream is the transaction's identifier."""

# Runs inside COMMIT, and so holds it up for as long as somebody holds the lock.
SLOW_COMMIT = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON work DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hold();
"""


@pytest.fixture
def work(database: Database) -> Database:
    """A database with a table of work done."""
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE work (id int)")
    return database


def rows(database: Database) -> int:
    with database.server.connect(dbname=database.name) as conn:
        found = conn.execute("SELECT count(*) FROM work").fetchone()
    assert found is not None
    return int(found[0])


def insert(conn: psycopg.Connection[Any]) -> str:
    conn.execute("INSERT INTO work VALUES (1)")
    return "done"


def test_a_commit_that_happened_is_found_and_the_functions_answer_is_returned(
    work: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(work.server.port)
    with connected(work, port=relay.port) as db:
        relay.reset_at_answer(COMMITTED)
        assert db.transaction(insert) == "done"
        assert not relay.trap_is_set
    assert rows(work) == 1


@pytest.fixture
def held_up(work: Database) -> Iterator[psycopg.Connection[Any]]:
    """A lock that keeps COMMITs waiting, and its holder."""
    with plain_connection(work) as holder:
        holder.execute(SLOW_COMMIT)
        holder.commit()
        holder.execute("SELECT pg_advisory_xact_lock(1)")
        yield holder


def committing(database: Database) -> list[int]:
    """Sessions that hang in their COMMIT."""
    with database.server.connect() as admin:
        found = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'", [database.name]
        ).fetchall()
    return [row[0] for row in found]


def test_a_commit_that_the_server_gave_up_is_found_and_the_function_runs_again(
    work: Database, relay_to: Callable[[int], Relay], held_up: psycopg.Connection[Any]
) -> None:
    relay = relay_to(work.server.port)
    results: list[str] = []
    with connected(work, port=relay.port) as db:
        thread = threading.Thread(target=lambda: results.append(db.transaction(insert)))
        thread.start()
        (pid,) = eventually(lambda: committing(work))
        with work.server.connect() as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        held_up.rollback()
        thread.join(60)
    assert (results, rows(work)) == (["done"], 1)


def test_a_session_that_is_lost_while_it_commits_is_ended_and_its_work_done_once(
    work: Database, relay_to: Callable[[int], Relay], held_up: psycopg.Connection[Any]
) -> None:
    relay = relay_to(work.server.port)
    results: list[str] = []
    with connected(work, port=relay.port) as db:
        thread = threading.Thread(target=lambda: results.append(db.transaction(insert)))
        thread.start()
        lost = eventually(lambda: committing(work))
        relay.reset_all()
        # The server does not look at its socket while it waits for a lock: only we can end that session.
        eventually(lambda: committing(work) not in (lost, []), what="another run in place of the lost session")
        held_up.rollback()
        thread.join(60)
    assert (results, rows(work)) == (["done"], 1)


def test_a_transaction_that_wrote_nothing_may_run_again(work: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(work.server.port)
    runs: list[int] = []

    def update_nothing(conn: psycopg.Connection[Any]) -> int:
        runs.append(1)
        return conn.execute("UPDATE work SET id = 2 WHERE id = 1").rowcount

    with connected(work, port=relay.port) as db:
        relay.reset_at_answer(COMMITTED)
        assert db.transaction(update_nothing) == 0
    assert len(runs) == 2


def by_copy(conn: psycopg.Connection[Any]) -> None:
    with conn.cursor().copy("COPY work FROM STDIN") as copy:
        copy.write_row([1])


def by_many(conn: psycopg.Connection[Any]) -> None:
    conn.cursor().executemany("INSERT INTO work VALUES (%s)", [[1]])


def by_with(conn: psycopg.Connection[Any]) -> None:
    conn.execute("WITH done AS (INSERT INTO work VALUES (1) RETURNING id) SELECT count(*) FROM done")


def by_other_cursors(conn: psycopg.Connection[Any]) -> None:
    conn.cursor_factory = psycopg.ClientCursor
    insert(conn)


@pytest.mark.parametrize("write", [insert, by_copy, by_many, by_with, by_other_cursors])
def test_every_way_to_write_is_noticed(
    work: Database, relay_to: Callable[[int], Relay], write: Callable[[psycopg.Connection[Any]], object]
) -> None:
    relay = relay_to(work.server.port)
    with connected(work, port=relay.port) as db:
        relay.reset_at_answer(COMMITTED)
        db.transaction(write)
        assert not relay.trap_is_set
    assert rows(work) == 1


def test_where_only_queries_were_seen_nothing_is_asked_and_a_lost_commit_is_unknown(
    work: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(work.server.port)
    with connected(work, port=relay.port) as db:
        relay.reset_at_answer(COMMITTED)
        with pytest.raises(tidegate.CommitOutcomeUnknown):
            db.transaction(lambda conn: conn.execute("SELECT count(*) FROM work").fetchone())


def test_what_no_server_has_said_leaves_a_commit_open() -> None:
    """psycopg, which polls the socket, may see its end before libpq does: then the connection still looks whole."""
    assert commit_outcome_unknown(psycopg.OperationalError("connection socket closed"), broken=False)
    assert not commit_outcome_unknown(tidegate.DeadlineExceeded("its cancel was confirmed"), broken=False)


def test_on_another_server_the_identifier_means_nothing(database: Database, relay_to: Callable[[int], Relay]) -> None:
    with EmbeddedPostgres("18") as other:
        other.create_user(database.user, database.password)
        other.create_database(database.name, owner=database.user)
        with plain_connection(database) as conn:
            conn.execute("CREATE TABLE work (id int)")
        relay = relay_to(database.server.port)
        with connected(database, port=relay.port) as db:

            def insert_and_fail_over(conn: psycopg.Connection[Any]) -> None:
                insert(conn)
                relay.target = ("127.0.0.1", other.port)

            relay.reset_at_answer(COMMITTED)
            with pytest.raises(tidegate.CommitOutcomeUnknown) as caught:
                db.transaction(insert_and_fail_over)
            assert caught.value.xid is not None
    assert rows(database) == 1


@pytest.mark.parametrize("trouble", ["swallow_at", "half_open_at", "reset_at"])
@pytest.mark.parametrize("after_answer", [False, True], ids=["never arrived", "answer lost"])
def test_without_the_identifier_the_outcome_is_unknown_and_the_work_there_once_or_not_at_all(
    work: Database, relay_to: Callable[[int], Relay], trouble: str, after_answer: bool
) -> None:
    relay = relay_to(work.server.port)
    context = Context(3.0)
    with connected(work, port=relay.port, **PATIENT) as db:
        getattr(relay, trouble)(b"COMMIT", after_answer=after_answer)
        with pytest.raises(tidegate.CommitOutcomeUnknown) as caught, db.invocation(context):
            db.transaction(insert)
        assert caught.value.xid is None
        assert context.get_remaining_time_in_millis() > 0
        # The server may still be at it when its connection is lost.
        eventually(lambda: rows(work) == int(after_answer))


def test_the_deadline_during_commit_is_a_definite_no(work: Database, held_up: psycopg.Connection[Any]) -> None:
    with connected(work) as db:
        with pytest.raises(tidegate.DeadlineExceeded, match="cancelled"), db.invocation(Context(1.2)):
            db.transaction(insert)
        held_up.rollback()
        assert rows(work) == 0


@pytest.mark.parametrize("how", ["block", "commit()", "conn.transaction()"])
def test_every_way_to_commit_says_when_the_outcome_is_unknown(
    work: Database, relay_to: Callable[[int], Relay], how: str
) -> None:
    relay = relay_to(work.server.port)
    with connected(work, port=relay.port) as db:
        relay.reset_at(b"COMMIT", after_answer=True)
        with pytest.raises(tidegate.CommitOutcomeUnknown), db.connection() as conn:  # noqa: PT012
            if how == "conn.transaction()":
                with conn.transaction():
                    insert(conn)
            else:
                insert(conn)
            if how == "commit()":
                conn.commit()
    eventually(lambda: rows(work) == 1)


def test_a_server_that_has_become_read_only_is_left_for_the_writer(
    work: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(work.server.port)
    runs: list[int] = []
    with plain_connection(work, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{work.name}" SET default_transaction_read_only = on')
        with connected(work, port=relay.port) as db:
            admin.execute(f'ALTER DATABASE "{work.name}" RESET default_transaction_read_only')

            def write(conn: psycopg.Connection[Any]) -> None:
                runs.append(conn.info.backend_pid)
                insert(conn)

            db.transaction(write)
            assert len(set(runs)) == 2
            with db.connection() as conn:
                assert conn.info.backend_pid == runs[1]
    assert rows(work) == 1


def test_read_only_by_the_users_own_wish_is_an_error_and_not_a_failover(work: Database) -> None:
    runs: list[int] = []

    def write(conn: psycopg.Connection[Any]) -> None:
        runs.append(1)
        insert(conn)

    with connected(work) as db, db.invocation():
        with db.connection() as conn:
            conn.read_only = True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            db.transaction(write)
    assert len(runs) == 1


def test_a_failed_question_for_the_outcome_leaves_it_unknown(work: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(work.server.port)

    def insert_then_nobody_answers(conn: psycopg.Connection[Any]) -> None:
        insert(conn)
        relay.target = ("127.0.0.1", 1)

    with connected(work, port=relay.port) as db:
        relay.reset_at_answer(COMMITTED)
        with pytest.raises(tidegate.CommitOutcomeUnknown), db.invocation(Context(1.5)):
            db.transaction(insert_then_nobody_answers)
    assert rows(work) == 1
