"""How a fleet shares a server's connections, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.fleet.planner import (
    CONTROL_CONNECTIONS,
    Member,
    View,
    claimable,
    interval,
    kept_back,
    new_share,
    parts,
)


def members(*numbers: tuple[int, int]) -> list[Member]:
    """Members with these shares and demands, which hold what they may."""
    return [Member(f"{index:08x}", share, min(share, demand), demand) for index, (share, demand) in enumerate(numbers)]


def view(all_members: Sequence[Member], to_share: int = 84, others: int = 0, strays: int = 0) -> View:
    """A view of these members and so many connections to share; the server has room for seven more."""
    budget = to_share + kept_back(len(all_members))
    used = CONTROL_CONNECTIONS * len(all_members) + sum(member.held for member in all_members) + strays
    return View(budget, budget + 7, used + others, used, all_members)


def settle(
    all_members: Sequence[Member], to_share: int = 84, rounds: int = 60, *, others: int = 0, strays: int = 0
) -> list[int]:
    """Shares after so many looks by each member in turn; what is given up is closed at once."""
    state = list(all_members)
    before = sum(member.share for member in state)
    for _ in range(rounds):
        for index, member in enumerate(state):
            now = view(state, to_share, others, strays)
            share = new_share(now, member.id, now.others, now.strays)
            if share > member.share:
                share = member.share + min(share - member.share, claimable(now))
            state[index] = replace(member, share=share, held=min(member.demand, share))
            assert sum(each.share for each in state) <= max(to_share, before)
    return [member.share for member in state]


def test_alone_it_has_all_that_there_is() -> None:
    assert settle(members((0, 0))) == [84]


def test_all_in_need_get_equal_parts() -> None:
    assert settle(members((0, 50), (0, 50), (0, 50), (0, 50))) == [21, 21, 21, 21]


def test_what_an_idle_member_does_not_need_goes_to_who_needs_it() -> None:
    shares = settle(members((21, 0), (21, 0), (21, 0), (21, 100)))
    assert shares[3] >= 60
    assert min(shares[:3]) >= 5  # for their first clients


def test_nothing_moves_while_nobody_needs_anything() -> None:
    assert settle(members((69, 3), (8, 8), (7, 0))) == [69, 8, 7]
    # What the last needs for its first clients is there but for one.
    assert settle(members((70, 3), (8, 8), (2, 0))) == [69, 8, 7]


def test_demands_that_swing_move_little() -> None:
    state = members((28, 30), (28, 30), (28, 30))
    for swing in (25, 35, 26, 33, 28, 31):
        state[0] = replace(state[0], demand=swing)
        before = [member.share for member in state]
        shares = settle(state, rounds=4)
        assert sum(abs(a - b) for a, b in zip(shares, before, strict=True)) <= 8
        state = [replace(member, share=share, held=share) for member, share in zip(state, shares, strict=True)]


def test_a_dead_members_part_is_free_once_its_connections_are_gone() -> None:
    left = members((20, 50), (20, 50))
    assert claimable(view(left, strays=40)) == 84 - 40 - 40
    assert claimable(view(left)) == 84 - 40


def test_where_other_users_take_the_room_the_fleet_gives_way() -> None:
    now = view(members((42, 50), (42, 50)), others=40)
    assert claimable(now) == 0
    assert new_share(now, "00000000", 40, 0) == (84 - 40 + 7) // 2
    # Others who fit beside the budget change nothing.
    assert new_share(view(now.members, others=7), "00000000", 7, 0) == 42


def test_a_member_that_joins_gets_its_part_also_where_somebody_else_uses_the_members_user() -> None:
    assert min(settle(members((44, 10), (9, 10), (7, 2), (0, 1)), to_share=78, strays=18)) >= 1


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=6),
    st.integers(0, 100),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_nobody_in_need_stays_with_less_than_its_part(
    numbers: list[tuple[int, int]], total: int, others: int, strays: int
) -> None:
    shares = settle(members(*numbers), total, others=others, strays=strays)
    # Of the connections that the server has room for, strays take theirs, too; see `view`.
    wanted = parts(max(0, min(total - strays, total + 7 - others - strays)), members(*numbers))
    for member, share in zip(members(*numbers), shares, strict=True):
        assert share >= min(member.demand, wanted[member.id])


def test_a_smaller_budget_is_kept_to() -> None:
    assert settle(members((42, 50), (42, 50)), 32) == [16, 16]


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


@given(numbers=numbers, total=st.integers(0, 300), strays=st.integers(0, 50))
def test_claims_never_exceed_the_budget(numbers: list[tuple[int, int]], total: int, strays: int) -> None:
    before = view(members(*numbers), total, strays=strays)
    if claimable(before):
        assert sum(member.share for member in before.members) + strays + claimable(before) <= total


@pytest.mark.parametrize("count", [1, 5, 200, 1000])
def test_a_large_fleet_asks_no_more_often_than_a_small_one(count: int) -> None:
    assert count / interval(count, hurried=True) <= 50 or count <= 12
