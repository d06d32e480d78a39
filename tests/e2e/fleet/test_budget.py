"""The database's budget of connections holds for the whole fleet, whoever comes and goes."""

from __future__ import annotations

import signal

from tests.e2e.fleet.clients import Observer
from tests.e2e.fleet.conftest import BUDGET, StartClients, StartMember
from tests.support.postgres import Database
from tests.support.proxy import eventually

from tidegate_proxy.fleet.planner import kept_back

TIMEOUT = 60.0
"""A busy machine takes its time."""


def test_five_members_under_load_some_killed_some_added(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    with Observer(database) as observer:
        members = [start_member() for _ in range(3)]
        loads = [start_clients(member, 25) for member in members]
        eventually(lambda: observer.now >= BUDGET - kept_back(3), timeout=TIMEOUT, what="using the budget")

        # Two come while the others use everything.
        members += [start_member(), start_member()]
        loads += [start_clients(member, 25) for member in members[3:]]
        part = (BUDGET - kept_back(5)) // 5
        eventually(
            lambda: len(observer.members) == 5 and min(each.share for each in observer.members.values()) >= part - 1,
            timeout=TIMEOUT,
            what="equal parts for five",
        )

        # Two die, with queries under way.
        for victim in (0, 3):
            members[victim].stop(signal.SIGKILL)
        eventually(
            lambda: len(observer.members) == 3 and observer.now >= BUDGET - kept_back(3),
            timeout=TIMEOUT,
            what="the dead members' part in use",
        )

        members.append(start_member())
        loads.append(start_clients(members[5], 25))
        eventually(lambda: loads[5].answered > 100, timeout=TIMEOUT, what="service by the newest member")
        for victim in (0, 3):
            loads[victim].errors.clear()
        for load in loads:
            load.stop()
            assert load.errors == []
    assert max(observer.counts) <= BUDGET
