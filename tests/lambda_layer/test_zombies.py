"""Without a proxy: sessions that nobody uses end by themselves, and an environment yields when the server fills up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.lambda_layer.helpers import Context, backend_of, connected
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate
from tidegate import utilisation
from tidegate_load.postgres import EmbeddedPostgres


def setting(db: tidegate.Database) -> object:
    with db.connection() as conn:
        found = conn.execute("SELECT current_setting('idle_session_timeout', true)").fetchone()
    assert found is not None
    return found[0]


def test_the_server_is_asked_to_end_idle_sessions_at_no_round_trip(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    costs = []
    for timeout, shown in ((None, "15min"), (90, "90s"), (0, "0")):
        relay = relay_to(database.server.port)
        with connected(database, port=relay.port, idle_session_timeout=timeout) as db:
            assert setting(db) == shown
            costs.append(relay.round_trips)
    assert len(set(costs)) == 1


def test_it_outlasts_a_reset_and_pgoptions_has_the_last_word(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(database) as db:
        with db.connection() as conn:
            conn.execute("SET idle_session_timeout = 0")
        with db.connection() as conn:
            assert conn.execute("SHOW idle_session_timeout").fetchone() == ("15min",)
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=123kB -c idle_session_timeout=5s")
    with connected(database) as db, db.connection() as conn:
        assert conn.execute("SHOW work_mem").fetchone() == ("123kB",)
        assert conn.execute("SHOW idle_session_timeout").fetchone() == ("5s",)


def test_a_session_that_the_server_ended_for_idleness_is_replaced_unseen(database: Database) -> None:
    with connected(database, idle_session_timeout=0.05) as db:
        pid = backend_of(db)
        conn = db._core.conn
        assert conn is not None
        with contextlib.suppress(psycopg.Error):
            list(conn.notifies(timeout=60, stop_after=1))  # type: ignore[arg-type]
        assert backend_of(db) != pid


def test_a_server_that_does_not_know_it_is_asked_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # Any unknown parameter is refused in the same way, so a real server shows it.
    def unknown(**keywords: Any) -> str:
        if "options" in keywords:
            asked.append(1)
            keywords["options"] = "-c idle_session_timeout_of_the_future=1"
        return make_conninfo(**keywords)

    asked: list[int] = []
    monkeypatch.setattr("tidegate.opening.make_conninfo", unknown)
    with connected(database) as db:
        assert backend_of(db)
        db.close()
        assert backend_of(db)
    assert asked == [1]


@pytest.fixture
def small() -> Iterator[Database]:
    """A server of ten connections."""
    with EmbeddedPostgres("18", settings={"max_connections": "10"}) as server:
        server.create_user("orders", "s3cret-small")
        yield Database(server, "postgres", "orders", "s3cret-small")


def test_above_the_mark_the_connection_is_closed_and_below_it_is_kept(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utilisation, "CHECK_EVERY", 0.0)
    with connected(small, close_above=50) as db:

        @db.handler
        def handler(event: object, context: object) -> int:
            with db.connection() as conn:
                return conn.info.backend_pid

        assert handler({}, Context()) == handler({}, Context())
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(small.server.connect())
            first = handler({}, Context())
            assert "not connected" in repr(db)
            assert handler({}, Context()) != first

        def is_kept() -> bool:
            handler({}, Context())
            return "not connected" not in repr(db)

        # The sessions that have just ended may still count.
        eventually(is_kept, what="a connection that is kept")


def test_the_question_is_asked_now_and_then_and_only_where_it_is_wanted(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)

    def round_trips(**keywords: object) -> list[int]:
        counts = []
        with connected(database, port=relay.port, **keywords) as db:
            for _ in range(3):
                before = relay.round_trips
                with db.invocation(Context()), db.connection():
                    pass
                counts.append(relay.round_trips - before)
        return counts

    assert round_trips() == [0, 0, 0]
    assert round_trips(close_above=100) == [1, 0, 0]
