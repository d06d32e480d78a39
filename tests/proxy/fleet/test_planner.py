"""How a fleet shares a server's connections, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.fleet.planner import (
    Member,
    View,
    claimable,
    interval,
    kept_back,
    new_share,
    parts,
    to_share,
)


def members(*numbers: tuple[int, int]) -> list[Member]:
    """Members with these shares and demands, which hold what they may."""
    return [Member(f"{index:08x}", share, min(share, demand), demand) for index, (share, demand) in enumerate(numbers)]


def view(all_members: Sequence[Member], budget: int = 90, room: int = 97, others: int = 0, strays: int = 0) -> View:
    used = len(all_members) + sum(member.held for member in all_members) + strays
    return View(budget, room, used + others, used, all_members)


def settle(start: View, rounds: int = 60) -> list[int]:
    """Shares after so many looks by each member in turn; what is given up is closed at once."""
    state = list(start.members)
    for _ in range(rounds):
        for index, member in enumerate(state):
            now = view(state, start.budget, start.room)
            share = new_share(now, member.id, 0)
            if share > member.share:
                share = member.share + min(share - member.share, claimable(now))
            state[index] = replace(member, share=share, held=min(member.demand, share))
            assert sum(each.share for each in state) <= max(
                to_share(start, 0), sum(each.share for each in start.members)
            )
    return [member.share for member in state]


def test_alone_it_has_all_that_there_is() -> None:
    assert settle(view(members((0, 0)))) == [90 - kept_back(1)]


def test_all_in_need_get_equal_parts() -> None:
    assert settle(view(members((0, 50), (0, 50), (0, 50), (0, 50)))) == [20, 20, 21, 21]


def test_what_an_idle_member_does_not_need_goes_to_who_needs_it() -> None:
    shares = settle(view(members((21, 0), (21, 0), (20, 0), (20, 100))))
    assert shares[3] >= 60
    assert min(shares[:3]) >= 5  # for their first clients


def test_nothing_moves_while_nobody_needs_anything() -> None:
    assert settle(view(members((69, 3), (8, 8), (7, 0)))) == [69, 8, 7]
    # What the last needs for its first clients is there but for one.
    assert settle(view(members((70, 3), (8, 8), (2, 0)))) == [69, 8, 7]


def test_demands_that_swing_move_little() -> None:
    state = members((28, 30), (28, 30), (28, 30))
    for swing in (25, 35, 26, 33, 28, 31):
        state[0] = replace(state[0], demand=swing)
        before = [member.share for member in state]
        shares = settle(view(state), rounds=4)
        assert sum(abs(a - b) for a, b in zip(shares, before, strict=True)) <= 8
        state = [replace(member, share=share, held=share) for member, share in zip(state, shares, strict=True)]


def test_a_dead_members_part_is_free_once_its_connections_are_gone() -> None:
    left = members((20, 50), (20, 50))
    assert claimable(view(left, strays=40)) == 90 - kept_back(2) - 80
    assert claimable(view(left)) == 90 - kept_back(2) - 40


def test_where_other_users_take_the_room_the_fleet_gives_way() -> None:
    now = view(members((43, 50), (43, 50)), others=40)
    assert claimable(now) == 0
    assert new_share(now, "00000000", 40) == (97 - 40 - kept_back(2)) // 2
    # Others who fit beside the budget change nothing.
    assert new_share(view(now.members, others=7), "00000000", 7) == 43


def test_a_smaller_budget_is_kept_to() -> None:
    assert sum(settle(view(members((43, 50), (43, 50)), budget=40, room=40))) == 40 - kept_back(2)


def test_more_members_than_connections_leave_some_without() -> None:
    assert sum(parts(3, members(*[(0, 5)] * 8)).values()) == 3


numbers = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=40)


@given(numbers=numbers, total=st.integers(0, 500))
def test_parts_are_all_that_there_is_and_nobody_in_need_has_less_than_another(
    numbers: list[tuple[int, int]], total: int
) -> None:
    all_members = members(*numbers)
    result = parts(total, all_members)
    assert sum(result.values()) == total
    for member in all_members:
        if result[member.id] < member.demand:
            assert result[member.id] >= max(result.values()) - 1


@given(numbers=numbers, budget=st.integers(1, 300))
def test_claims_never_exceed_the_budget(numbers: list[tuple[int, int]], budget: int) -> None:
    before = view(members(*numbers), budget=budget, room=budget + 7)
    shares = sum(member.share for member in before.members)
    if claimable(before):
        assert shares + claimable(before) + kept_back(len(before.members)) <= budget


@pytest.mark.parametrize("count", [1, 5, 200, 1000])
def test_a_large_fleet_asks_no_more_often_than_a_small_one(count: int) -> None:
    assert count / interval(count, hurried=True) <= 50 or count <= 12
