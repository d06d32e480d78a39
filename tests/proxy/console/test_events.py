"""Logs in JSON say what happened, to whom, and never a statement's values."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually

from tidegate_proxy.fingerprint import fingerprint


def events(proxy: ProxyProcess, event: str) -> list[dict[str, Any]]:
    """The records of this kind."""
    records = [json.loads(line) for line in proxy.log.splitlines() if line.startswith("{")]
    return [record for record in records if record.get("event") == event]


@pytest.fixture
def proxy(start_proxy: StartProxy) -> ProxyProcess:
    """A proxy that logs everything that can be logged, as JSON."""
    return start_proxy(log_format="json", log_connections=True, log_slow_queries=0.1)


def test_connections_and_pins_with_the_application_that_they_belong_to(proxy: ProxyProcess, database: Database) -> None:
    with proxy.connect(application_name="orders-function") as one:
        one.execute("LISTEN c")
        (pinned,) = eventually(lambda: events(proxy, "pinned"))
    (connected,) = events(proxy, "connected")
    (gone,) = eventually(lambda: events(proxy, "disconnected"))
    for record in (connected, pinned, gone):
        assert (record["database"], record["user"]) == (database.name, database.user)
        assert record["application_name"] == "orders-function"
        assert record["client"] == connected["client"]
    assert connected["address"].startswith("127.0.0.1:")
    assert pinned["reason"] == "listen"
    assert gone["seconds"] >= 0


def within(request_id: str, text: str = "BEGIN", milliseconds: int = 60_000) -> str:
    """A text that names the request that its transaction is for, as Tidegate's layer does it."""
    return f"{text} /* tidegate.deadline_ms={milliseconds},request_id={request_id} */"


@pytest.mark.parametrize("pinned", [False, True])
def test_the_request_that_a_transaction_is_for_and_no_later_one(proxy: ProxyProcess, pinned: bool) -> None:
    with proxy.connect() as one:
        if pinned:
            one.execute("LISTEN c")
        for begin in (within("first"), "BEGIN", within("second")):
            one.execute(begin)
            one.execute("SELECT pg_sleep(0.2)")
            one.execute("COMMIT")
        one.execute("SELECT pg_sleep(0.2)")

        def slow_sleeps() -> list[dict[str, Any]]:
            # On a busy machine, what is quick may be slow as well.
            return [record for record in events(proxy, "slow_query") if record["kind"] == "SELECT"]

        slow = eventually(lambda: len(found := slow_sleeps()) == 4 and found)
    assert [record.get("request_id") for record in slow] == ["first", None, "second", None]


def test_the_request_whose_session_is_pinned_and_whose_transaction_is_ended(proxy: ProxyProcess) -> None:
    with proxy.connect() as one:
        one.execute(within("pins"))
        one.execute("CREATE TEMPORARY TABLE t (i int)")
        one.execute("COMMIT")
        (pinned,) = eventually(lambda: events(proxy, "pinned"))
        one.execute("DROP TABLE t")
    with proxy.connect() as other:
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute(within("cancelled", "SELECT pg_sleep(60)", 200))
        other.execute(within("silent", milliseconds=1500))
        ended = eventually(lambda: len(found := events(proxy, "deadline_passed")) == 2 and found)
        with pytest.raises(psycopg.errors.QueryCanceled):
            other.execute("SELECT 1")
        other.execute("ROLLBACK")
    assert pinned["request_id"] == "pins"
    assert [record["request_id"] for record in ended] == ["cancelled", "silent"]


def test_the_request_is_nothing_that_postgresql_sees(proxy: ProxyProcess) -> None:
    with proxy.connect() as one:
        query = within("mine", "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        assert one.execute(query).fetchone() == (query.partition(" /*")[0],)


def test_a_failed_login_says_who_it_was_meant_to_be(proxy: ProxyProcess, database: Database) -> None:
    with pytest.raises(psycopg.OperationalError):
        proxy.connect(password="not mine", application_name="guesser")
    (record,) = eventually(lambda: events(proxy, "login_failed"))
    assert (record["user"], record["database"], record["application_name"]) == (database.user, database.name, "guesser")
    assert (record["sqlstate"], record["level"]) == ("28P01", "warning")
    assert "not mine" not in proxy.log


@pytest.mark.parametrize("extended", [False, True])
def test_slow_requests_by_kind_and_fingerprint_without_values(proxy: ProxyProcess, extended: bool) -> None:
    with proxy.connect() as one:
        for secret in ("first secret", "second secret"):
            if extended:
                one.execute("SELECT %s::text, 4711, pg_sleep(0.2)", [secret], prepare=True)
            else:
                psycopg.ClientCursor(one).execute("SELECT %s::text, 4711, pg_sleep(0.2)", [secret])
        one.execute("SELECT 1")
        eventually(lambda: len(events(proxy, "slow_query")) >= 2)
    # On a busy machine, what is quick may be slow as well.
    other = fingerprint(b"SELECT 1")
    first, second = (record for record in events(proxy, "slow_query") if record["fingerprint"] != other)
    assert first["kind"] == second["kind"] == "SELECT"
    assert first["fingerprint"] == second["fingerprint"]
    assert 0.2 <= first["seconds"] < 60
    assert "secret" not in proxy.log
    assert "4711" not in proxy.log


def test_a_slow_request_in_a_transaction_is_told_without_its_neighbours(proxy: ProxyProcess) -> None:
    with proxy.connect() as one, one.transaction():
        one.execute("SELECT 1")
        one.execute("CREATE TEMP TABLE t AS SELECT 1 FROM pg_sleep(1)")
        one.execute("SELECT 2")

    def slow() -> list[dict[str, Any]]:
        # On a busy machine, what is quick may be slow as well, but not as slow as that.
        return [record for record in events(proxy, "slow_query") if record["seconds"] >= 1]

    (record,) = eventually(slow)
    assert record["kind"] == "CREATE TEMP"
