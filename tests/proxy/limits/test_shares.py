"""The policy of limits that pools share, in numbers: no connection moves for nothing, and nobody starves."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from tidegate_proxy.pool.planner import MIN_TURN, budget, connections_to_open, must_yield, pool_limit, surplus_idle


@dataclass
class _Pool:
    waits: list[float] = field(default_factory=list)
    # When each connection was opened, and when it is free again.
    servers: list[tuple[float, float]] = field(default_factory=list)
    longest_wait: float = 0.0
    opened: int = 0


def _simulate(pools: int, limit: int, *, arrivals: float, takes: float, seconds: float) -> list[_Pool]:
    """Pools under one limit, each with `arrivals` transactions a second that take so many seconds; steps of 10 ms."""
    chance = random.Random(1)
    all_pools = [_Pool() for _ in range(pools)]
    now = 0.0
    while now < seconds:
        now += 0.01
        for pool in all_pools:
            pool.waits += [now] * (int(arrivals * 0.01) + (chance.random() < arrivals * 0.01 % 1))
        for pool in all_pools:
            for server in [server for server in pool.servers if server[1] <= now]:
                claimants = [other for other in all_pools if other is not pool and other.waits]
                claimant = min(claimants, key=lambda other: other.waits[0], default=None)
                if claimant is not None and must_yield(
                    limit=limit,
                    pools=sum(1 for other in all_pools if other.waits or other.servers),
                    held=len(pool.servers),
                    waits_since=pool.waits[0] if pool.waits else None,
                    claimant_holds=len(claimant.servers),
                    claimant_waits_since=claimant.waits[0],
                    open_for=now - server[0],
                ):
                    pool.servers.remove(server)
                    claimant.servers.append((now, now))
                    claimant.opened += 1
        for pool in all_pools:
            while pool.waits and sum(len(other.servers) for other in all_pools) < limit:
                pool.servers.append((now, now))
                pool.opened += 1
            for index, (opened, free_at) in enumerate(pool.servers):
                if free_at <= now and pool.waits:
                    pool.longest_wait = max(pool.longest_wait, now - pool.waits.pop(0))
                    pool.servers[index] = (opened, now + takes)
        assert sum(len(pool.servers) for pool in all_pools) <= limit
    return all_pools


def test_pools_that_want_more_than_there_is_get_equal_parts_and_keep_them() -> None:
    # Each pool alone would need all of it.
    pools = _simulate(4, 20, arrivals=150, takes=0.1, seconds=20)
    assert [len(pool.servers) for pool in pools] == [5, 5, 5, 5]
    assert max(pool.opened for pool in pools) < 40


def test_a_limit_that_is_not_divisible_does_not_make_connections_move_for_ever() -> None:
    pools = _simulate(3, 10, arrivals=150, takes=0.1, seconds=20)
    assert sorted(len(pool.servers) for pool in pools) == [3, 3, 4]
    assert sum(pool.opened for pool in pools) < 60


@pytest.mark.parametrize("limit", [1, 3])
def test_with_fewer_places_than_pools_all_have_their_turn(limit: int) -> None:
    pools = _simulate(6, limit, arrivals=0.8, takes=0.1, seconds=120)
    for pool in pools:
        assert pool.longest_wait < 12 / limit


def test_with_fewer_places_than_pools_a_turn_lasts() -> None:
    pools = _simulate(2, 1, arrivals=100, takes=0.01, seconds=20)
    assert sum(pool.opened for pool in pools) <= 20 / MIN_TURN + 2
    assert min(pool.opened for pool in pools) > 10


def test_the_budget_is_a_part_of_what_the_server_allows_to_ordinary_users() -> None:
    assert budget(max_connections=100, reserved=3, percent=90) == 90
    assert budget(max_connections=100, reserved=3, percent=100) == 97
    assert budget(max_connections=4, reserved=3, percent=10) == 1


def test_the_reserve_counts_once_somebody_has_waited_long_enough() -> None:
    assert pool_limit(size=20, reserve=5, reserve_after=3, waited=2.9) == 20
    assert pool_limit(size=20, reserve=5, reserve_after=3, waited=3) == 25
    assert pool_limit(size=20, reserve=5, reserve_after=0, waited=100) == 20


def test_the_minimum_is_opened_without_anybody_waiting_and_within_the_limit() -> None:
    assert connections_to_open(wanted=0, opening=1, open_now=1, limit=10, minimum=4) == 2
    assert connections_to_open(wanted=9, opening=0, open_now=0, limit=5, minimum=4) == 5
    assert connections_to_open(wanted=0, opening=0, open_now=7, limit=5, minimum=4) == 0


def test_idle_connections_beyond_their_part_are_surplus() -> None:
    assert surplus_idle(idle=50, max_connections=100, percent=45) == 5
    assert surplus_idle(idle=3, max_connections=100, percent=45) == 0
