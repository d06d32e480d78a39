"""What a member does when the server has no room, or does not let it look at the fleet."""

from __future__ import annotations

import contextlib

from tests.e2e.fleet.clients import Observer
from tests.e2e.fleet.conftest import BUDGET, StartClients, StartMember
from tests.support.postgres import Database
from tests.support.proxy import eventually

from tidegate_proxy.fleet.planner import kept_back

TIMEOUT = 60.0


def test_a_refusal_for_want_of_room_lowers_the_share_at_once_to_what_there_is(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    """Other users' connections are seen and respected before it comes to that, so here the server refuses for a reason
    that no member can see; with the same SQLSTATE, 53300."""
    member = start_member()
    share = BUDGET - kept_back(1)

    def limit_role(connections: int) -> None:
        with database.server.connect() as conn:
            conn.execute(f'ALTER ROLE "{database.user}" CONNECTION LIMIT {connections}')

    with Observer(database) as observer:
        eventually(lambda: [each.share for each in observer.members.values()] == [share], timeout=TIMEOUT)
        limit_role(12)
        load = start_clients(member, 30)
        eventually(lambda: f"no room for another connection: share {share} -> " in member.log, timeout=TIMEOUT)
        eventually(
            lambda: 0 < max((each.share for each in observer.members.values()), default=0) <= 12,
            timeout=TIMEOUT,
            what="a share that the server allows",
        )
        limit_role(-1)
        # Nobody's transaction fails for it, and the share comes back.
        eventually(
            lambda: max((each.share for each in observer.members.values()), default=0) > 20,
            timeout=TIMEOUT,
            what="a larger share",
        )
        load.stop()
        assert load.errors == []
        assert load.answered > 0
    assert max(observer.counts) <= BUDGET


def test_without_a_control_login_each_keeps_to_the_budget_by_itself(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    """The user of the control connection may not log in, clients may: the proxy serves, and warns once."""
    with database.server.connect() as conn:
        conn.execute("CREATE ROLE watcher LOGIN PASSWORD 'of-the-watcher'")
    try:
        member = start_member(**{"users.watcher.password": "wrong"})
        eventually(lambda: "no control connection" in member.log, timeout=TIMEOUT)
        assert member.log.count("whatever others do") == 1
        with Observer(database) as observer:
            load = start_clients(member, 45)
            eventually(lambda: load.answered > 500, timeout=TIMEOUT, what="service")
            load.stop()
            assert load.errors == []
            assert observer.members == {}
        assert 0 < max(observer.counts) <= BUDGET
    finally:
        with database.server.connect() as conn:
            conn.execute("DROP ROLE watcher")


def test_who_joins_opens_nothing_until_the_others_have_made_room(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    first = start_member()
    with Observer(database) as observer:
        # Long queries: the first member cannot give anything back soon.
        load = start_clients(first, 40, 2.0)
        eventually(lambda: observer.now >= BUDGET - kept_back(1), timeout=TIMEOUT, what="using the budget")
        second = start_member()
        late = start_clients(second, 20)
        eventually(lambda: len(observer.members) == 2, timeout=TIMEOUT)
        eventually(lambda: late.answered > 20, timeout=TIMEOUT, what="service by the new member")
        for each in (load, late):
            each.stop()
            assert each.errors == []
    assert max(observer.counts) <= BUDGET


def test_who_joins_is_served_also_where_somebody_else_uses_the_members_user(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    """No member holds those connections, so they take a part of the budget: not just of what the last one gets."""
    with contextlib.ExitStack() as stack:
        for _ in range(14):
            stack.enter_context(
                database.server.connect(dbname=database.name, user=database.user, password=database.password)
            )
        # The first of them has most of the budget, and stops needing it.
        members = [start_member(default_pool_size=8) for _ in range(3)]
        with Observer(database) as observer:
            eventually(lambda: len(observer.members) == 3, timeout=TIMEOUT)
            load = [start_clients(member, 12) for member in members]
            late = start_clients(start_member(default_pool_size=8), 12)
            for each in (*load, late):
                eventually(lambda each=each: each.answered > 50, timeout=TIMEOUT, what="service")  # type: ignore[misc]
            for each in (*load, late):
                each.stop()
                assert each.errors == []
