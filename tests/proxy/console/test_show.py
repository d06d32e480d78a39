"""What SHOW shows: values that are true, in PgBouncer's units."""

from __future__ import annotations

import re
import threading
import time
from decimal import Decimal
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.proxy.console.helpers import console, only, show
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually


@pytest.fixture
def watched(start_proxy: StartProxy, request: pytest.FixtureRequest) -> ProxyProcess:
    """A proxy with two server connections whose test user may use the console."""
    user = request.getfixturevalue("database").user
    return start_proxy(default_pool_size=2, admin_users=[user])


def test_every_word_of_help_can_be_shown(watched: ProxyProcess) -> None:
    words = [row["command"] for row in show(watched, "HELP")]
    assert len(words) > 20
    for word in words:
        if word.startswith("SHOW "):
            show(watched, word.removeprefix("SHOW "))


def test_statistics_count_transactions_requests_and_their_time(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one:
        before = only(show(watched, "STATS"), database=name)
        one.execute("SELECT 1")
        with one.transaction():
            one.execute("SELECT pg_sleep(0.2)")
            one.execute("SELECT 2")
            time.sleep(0.1)
    after = only(show(watched, "STATS"), database=name)

    def grown(column: str) -> int:
        return int(after[column] - before[column])

    assert isinstance(after["total_xact_count"], Decimal)
    assert grown("total_xact_count") == 2
    assert grown("total_query_count") == 5
    assert grown("total_server_assignment_count") == 2
    assert 200_000 <= grown("total_query_time") <= grown("total_xact_time")
    # The client's own pause is no time of a query.
    assert grown("total_xact_time") >= grown("total_query_time") + 100_000
    assert grown("total_received") > 50
    assert grown("total_sent") > 100
    totals = {row["name"]: row["value"] for row in show(watched, "TOTALS")}
    assert totals["total_xact_time"] == only(show(watched, "STATS_TOTALS"), database=name)["xact_time"] > 0


def test_pipelined_requests_are_all_counted(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one:
        before = only(show(watched, "STATS"), database=name)
        with one.pipeline() as pipeline:
            for _ in range(3):
                one.execute("SELECT 1")
                pipeline.sync()
    after = only(show(watched, "STATS"), database=name)
    assert after["total_query_count"] - before["total_query_count"] in (3, 4)  # it ends with a Sync of its own


def test_prepared_statements_are_counted_and_shown_without_constants(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one, watched.connect() as other:
        for conn in (one, other):
            for _ in range(2):
                conn.execute("SELECT 'my secret', 4711, %s::int", [1], prepare=True)
        stats = only(show(watched, "STATS"), database=name)
        assert stats["total_client_parse_count"] == 2
        assert stats["total_server_parse_count"] >= 1
        assert stats["total_bind_count"] == 4
        (row,) = show(watched, "PREPARED_STATEMENTS")
        assert row["statement"] == "SELECT ?, ?, $1::int"
        assert [row["prepared_statements"] for row in show(watched, "CLIENTS") if row["database"] == name] == [1, 1]


def test_waiting_clients_show_with_their_wait_and_are_counted_when_it_ends(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one, watched.connect() as two, watched.connect(application_name="the third") as three:
        for conn in (one, two):
            conn.execute("BEGIN")
        third = threading.Thread(target=three.execute, args=["SELECT 1"])
        third.start()
        try:
            waiting = eventually(lambda: show(watched, "BORROWS"))
            assert (waiting[0]["position"], waiting[0]["application_name"]) == (1, "the third")
            assert 100 < waiting[0]["timeout_in"] <= 120
            pool = only(show(watched, "POOLS"), database=name)
            assert (pool["cl_active"], pool["cl_waiting"]) == (2, 1)
            assert (pool["sv_active"], pool["sv_idle"], pool["pool_mode"]) == (2, 0, "transaction")
            client = only(show(watched, "CLIENTS"), application_name="the third")
            assert client["state"] == "waiting"
            eventually(lambda: only(show(watched, "POOLS"), database=name)["maxwait_us"] > 0)
        finally:
            one.execute("COMMIT")
            third.join()
        two.execute("COMMIT")
    assert only(show(watched, "STATS"), database=name)["total_wait_time"] > 0
    assert show(watched, "BORROWS") == []


def test_a_held_server_connection_is_linked_with_its_client(watched: ProxyProcess) -> None:
    with watched.connect(application_name="holder") as one:
        one.execute("BEGIN")
        (pid,) = one.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        client = only(show(watched, "CLIENTS"), application_name="holder")
        server = only(show(watched, "SERVERS"), remote_pid=pid)
        assert (client["link"], server["link"]) == (server["ptr"], client["ptr"])
        assert (client["state"], server["state"]) == ("active", "active")
        assert server["port"] == watched.database.server.port
        assert client["local_port"] == watched.port
        assert server["connect_time"].endswith(" UTC")
        one.execute("COMMIT")
        eventually(lambda: only(show(watched, "SERVERS"), remote_pid=pid)["state"] == "idle")


def test_averages_are_of_the_latest_full_period(start_proxy: StartProxy, watched: ProxyProcess) -> None:
    proxy = start_proxy(admin_users=[watched.database.user], stats_period=0.5)
    name = proxy.database.name
    with proxy.connect() as one:

        def averaged() -> bool:
            one.execute("SELECT 1")
            row = only(show(proxy, "STATS_AVERAGES"), database=name)
            return bool(row["xact_count"] > 0 and row["query_time"] > 0)

        eventually(averaged)
    # Nothing happens any more: a period without anything follows.
    eventually(lambda: only(show(proxy, "STATS_AVERAGES"), database=name)["xact_count"] == 0)


def test_the_configuration_shows_values_and_no_secret(watched: ProxyProcess) -> None:
    rows = {row["key"]: row for row in show(watched, "CONFIG")}
    assert (rows["default_pool_size"]["value"], rows["default_pool_size"]["default"]) == ("2", "20")
    assert rows["admin_users"]["value"] == watched.database.user
    assert watched.database.password not in str(rows)


def test_lists_and_the_console_itself(watched: ProxyProcess) -> None:
    with console(watched, application_name="a monitor"):
        counts = {row["list"]: row["items"] for row in show(watched, "LISTS")}
        assert (counts["databases"], counts["users"], counts["used_clients"]) == (2, 1, 2)
        assert only(show(watched, "CLIENTS"), application_name="a monitor")["database"] == "pgbouncer"
        assert only(show(watched, "POOLS"), database="pgbouncer")["cl_active"] == 2


def test_the_page_tells_all_words_and_commands(watched: ProxyProcess) -> None:
    page = (Path(__file__).parents[3] / "docs/console.md").read_text()
    for row in show(watched, "HELP"):
        assert re.search(rf"`{row['command'].removeprefix('SHOW ').partition(' ')[0]}\b", page), row["command"]


def test_a_name_that_leads_nowhere_leaves_no_database_behind(start_proxy: StartProxy, database: Database) -> None:
    server = database.server
    others = f'[databases."*"]\nhost = "{server.host}"\nport = {server.port}\ntls = "disable"\n'
    proxy = start_proxy(stats_users=[database.user], more=others)
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        proxy.connect(dbname="nowhere")
    proxy.connect().close()

    def has_none(word: str) -> bool:
        return {row["database"] for row in show(proxy, word)} == {"pgbouncer", database.name}

    for word in ("STATS", "STATS_TOTALS", "STATS_AVERAGES"):
        eventually(partial(has_none, word))
