"""What an invocation leaves in the session is gone in the next one; the log names the line; innocents pay nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.lambda_layer.helpers import Context, backend_of, connected, plain_connection
from tests.support.postgres import Database
from tests.support.relay import Relay

from tidegate import blame, restoring

LEAKS = [
    ("SET work_mem = '123kB'", "SHOW work_mem", "4MB"),
    ("SELECT set_config('app.tenant', 'acme', false)", "SELECT current_setting('app.tenant', true)", ""),
    ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone", None),
    ("SET ROLE pg_monitor", "SELECT current_user = session_user", True),
    ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", 0),
    ("CREATE TEMP TABLE t (n int)", "SELECT to_regclass('pg_temp.t')", None),
    ("SELECT pg_advisory_lock(7)", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", 0),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors", 0),
    ("DO $$ BEGIN PERFORM set_config('app.tenant', 'acme', false); END $$", "SHOW app.tenant", ""),
]


@pytest.fixture(autouse=True)
def _each_line_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "_named", set())


def only_value(conn: psycopg.Connection[Any], question: str) -> object:
    found = conn.execute(question).fetchone()
    assert found is not None
    return found[0]


@pytest.mark.parametrize(("leak", "question", "expected"), LEAKS, ids=[leak for leak, *_ in LEAKS])
def test_session_state_is_gone_and_the_line_is_named(
    database: Database, caplog: pytest.LogCaptureFixture, leak: str, question: str, expected: object
) -> None:
    with database.server.connect() as admin:
        admin.execute(f'GRANT pg_monitor TO "{database.user}"')
    with connected(database) as db:
        pid = backend_of(db)
        if expected is None:
            with db.connection() as conn:
                expected = only_value(conn, question)
        caplog.clear()
        with db.invocation(Context()), db.connection() as conn:
            conn.execute(leak)
        assert re.search(rf"session was changed.*{Path(__file__).name}:\d+, in test_session_state", caplog.text)
        with db.invocation(Context()), db.connection() as conn:
            assert only_value(conn, question) == expected
            assert conn.info.backend_pid == pid


def test_the_line_is_named_once_and_values_never(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tidegate")
    with connected(database) as db:
        for _ in range(3):
            with db.invocation(Context()), db.connection() as conn:
                conn.execute("SELECT set_config('app.tenant', %s, false)", ["value-of-a-parameter"])
    assert caplog.text.count("session was changed") == 1
    assert "value-of-a-parameter" not in caplog.text


def test_one_question_restores_everything_and_none_is_asked_where_nothing_was_changed(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:

        def round_trips(statement: str) -> int:
            before = relay.round_trips
            with db.invocation(Context()), db.connection() as conn:
                conn.execute(statement)
            return relay.round_trips - before

        with plain_connection(database) as plain:
            plain.execute("CREATE TABLE t (a int, b text)")
        for innocent in ("SELECT 1", "UPDATE t\nSET a = 1", "SET LOCAL work_mem = '1MB'", "SET TRANSACTION READ ONLY"):
            assert round_trips(innocent) == len(["BEGIN", innocent, "COMMIT"])
        assert round_trips("SET work_mem = '1MB'") == len(["BEGIN", "SET", "COMMIT", "reset"])
        assert round_trips("SELECT 1") == 3


def test_statements_that_psycopg_has_prepared_survive_a_reset(database: Database) -> None:
    with connected(database) as db:
        for _ in range(8):
            with db.invocation(Context()), db.connection() as conn:
                conn.execute("SET work_mem = '1MB'")
                assert conn.execute("SELECT %s::int", [1]).fetchone() == (1,)
        assert backend_of(db) == conn.info.backend_pid


@pytest.mark.parametrize("statement", ["PREPARE p AS SELECT 1", "/* mine */ PREPARE p AS SELECT 1"])
def test_what_no_reset_takes_away_costs_the_connection(database: Database, statement: str) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()), db.connection() as conn:
            conn.execute(statement)
        assert backend_of(db) != pid


def test_a_leaked_transaction_names_the_line_that_began_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(database) as db:

        @db.handler
        def handler(event: object, context: object) -> None:
            with db.connection() as conn:
                conn.execute("SELECT 1")
            conn.execute("CREATE TABLE left_open (n int)")

        handler({}, Context())
        line = handler.__wrapped__.__code__.co_firstlineno + 4  # type: ignore[attr-defined]
        assert f"left in a transaction, begun at {__file__}:{line}, in handler" in caplog.text
        with db.connection() as conn:
            assert only_value(conn, "SELECT to_regclass('left_open')") is None


def test_a_block_that_never_ended_is_named(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with connected(database) as db:
        block = db.connection()
        with db.invocation(Context()):
            block.__enter__()
        assert re.search(rf"connection\(\) block, begun at .*{Path(__file__).name}:\d+", caplog.text)


def test_a_connection_in_pipeline_mode_is_replaced_and_the_borrower_named(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        with db.invocation(Context()), db.connection() as conn:
            conn.pgconn.enter_pipeline_mode()
        assert re.search(rf"pipeline mode: .*{Path(__file__).name}:\d+", caplog.text)
        assert backend_of(db) != pid


def test_cursors_that_cannot_be_watched_are_cleaned_after(database: Database) -> None:
    with connected(database) as db:
        with db.invocation(Context()), db.connection() as conn:
            conn.cursor_factory = psycopg.ClientCursor
            conn.execute("SET work_mem = '123kB'")
        with db.connection() as conn:
            assert only_value(conn, "SHOW work_mem") == "4MB"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # psycopg's, about this very leak
def test_a_named_cursor_that_outlives_its_transaction_is_closed(database: Database) -> None:
    with connected(database) as db:
        with db.invocation(Context()), db.connection() as conn:
            conn.cursor("kept", withhold=True).execute("SELECT 1")
        with db.connection() as conn:
            assert only_value(conn, "SELECT count(*) FROM pg_cursors") == 0


@pytest.mark.parametrize(
    ("text", "suspect"),
    [
        ("SELECT 1", False),
        ("UPDATE t SET a = 1", False),
        ("UPDATE t\n  SET a = 1", False),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", False),
        ("SET LOCAL x.y = 1", False),
        ("SET CONSTRAINTS ALL DEFERRED", False),
        ("SELECT pg_advisory_xact_lock(1)", False),
        ("PREPARE TRANSACTION 'x'", True),
        ("set search_path to a", True),
        ("  RESET ALL", True),
        ("SELECT 1; SET x.y = 1", True),
        ("-- why\nSET x.y = 1", True),
        ("/* why */ SET x.y = 1", True),
        ("SELECT 1" + " " * 200_000, True),
        (b"LISTEN a", True),
        (sql.SQL("SET {} = 1").format(sql.Identifier("x", "y")), True),
        (sql.SQL("SELECT {}").format(1), False),
    ],
)
def test_suspicion_errs_on_the_safe_side(text: object, suspect: bool) -> None:
    assert blame.judge(text).suspect is suspect
