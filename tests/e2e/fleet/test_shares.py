"""Shares follow demand, other users' connections, and the life of the control connection."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import psycopg.rows
from tests.e2e.fleet.clients import Observer
from tests.e2e.fleet.conftest import BUDGET, MAX_CONNECTIONS, StartClients, StartMember
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

from tidegate_proxy.fleet.planner import CONTROL_CONNECTIONS, kept_back

TIMEOUT = 60.0
TO_SHARE = BUDGET - kept_back(2)


def test_a_busy_member_gets_what_an_idle_one_does_not_use_and_gives_it_back(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    first, second = start_member(), start_member()
    with Observer(database) as observer:
        load = start_clients(first, 50)
        eventually(
            lambda: (
                max((member.share for member in observer.members.values()), default=0) >= TO_SHARE - TO_SHARE // 8 - 1
            ),
            timeout=TIMEOUT,
            what="nearly all for the busy one",
        )
        other = start_clients(second, 50)
        eventually(
            lambda: min((member.share for member in observer.members.values()), default=0) >= TO_SHARE // 2 - 1,
            timeout=TIMEOUT,
            what="half for each",
        )
        for each in (load, other):
            each.stop()
            assert each.errors == []
    assert max(observer.counts) <= BUDGET


def test_other_users_connections_are_respected(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    members = [start_member(), start_member()]
    with Observer(database) as observer, contextlib.ExitStack() as stack:
        loads = [start_clients(member, 30) for member in members]
        eventually(lambda: observer.now >= TO_SHARE, timeout=TIMEOUT, what="using the budget")

        def connected() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                stack.enter_context(database.server.connect())
                return True
            return False

        others = 30
        for _ in range(others):
            eventually(connected, timeout=TIMEOUT, what="room for others")
        eventually(
            lambda: (
                sum(member.share for member in observer.members.values())
                <= MAX_CONNECTIONS - 3 - others - CONTROL_CONNECTIONS * 2
            ),
            timeout=TIMEOUT,
            what="smaller shares",
        )
        for load in loads:
            load.stop()
            assert load.errors == []


def test_a_lost_control_connection_comes_back_and_no_client_notices(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    members = [start_member(), start_member()]
    with Observer(database) as observer:
        loads = [start_clients(member, 30) for member in members]
        eventually(lambda: observer.now >= TO_SHARE, timeout=TIMEOUT, what="using the budget")
        for _ in range(3):
            with database.server.connect() as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tidegate/%'"
                )
            eventually(
                lambda: len(observer.members) == 2 and observer.now >= TO_SHARE, timeout=TIMEOUT, what="both members"
            )
        for load in loads:
            load.stop()
            assert load.errors == []
    assert max(observer.counts) <= BUDGET


def test_the_console_shows_the_fleet(database: Database, start_member: StartMember) -> None:
    members = [start_member(admin_users=[database.user]) for _ in range(2)]

    def fleet(member: ProxyProcess) -> list[dict[str, Any]]:
        parameters = member.parameters | {"dbname": "pgbouncer"}
        with (
            psycopg.connect(**parameters, autocommit=True, cursor_factory=psycopg.ClientCursor) as console,
            console.cursor(row_factory=psycopg.rows.dict_row) as cursor,
        ):
            return cursor.execute("SHOW FLEET").fetchall()

    eventually(lambda: all(len(fleet(member)) == 2 for member in members), timeout=TIMEOUT, what="both members")
    rows = [fleet(member) for member in members]
    assert {row["budget"] for row in rows[0]} == {BUDGET}
    assert [row["member"] for row in rows[0]] == [row["member"] for row in rows[1]]
    # Each is itself.
    assert [row["self"] for row in rows[0]] == [1 - row["self"] for row in rows[1]]
