"""What a member publishes and asks, on a real server."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.postgres import Database

from tidegate_proxy.fleet import name, queries
from tidegate_proxy.fleet.planner import Member, View, claimable


def direct(database: Database, **keywords: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection as the proxy's user, without the proxy."""
    parameters: dict[str, Any] = {"autocommit": True} | database.parameters | keywords
    return psycopg.connect(**parameters)


def rows(conn: psycopg.Connection[tuple[object, ...]], sql: str) -> list[tuple[object, ...]]:
    """The rows of the last statement."""
    cursor = conn.execute(sql)
    while cursor.nextset():
        pass
    return cursor.fetchall()


def look(conn: psycopg.Connection[tuple[object, ...]], database: Database) -> View:
    (row,) = rows(conn, queries.look([database.user]))
    return queries.parse_look([None if value is None else str(value).encode() for value in row], 50)


@pytest.mark.parametrize("seed", range(5))
def test_a_claim_grants_what_the_planner_says(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(direct(database)) for _ in range(6)]
        stack.enter_context(database.server.connect())
        members = [
            Member(name.new_id(), chance.randrange(12), chance.randrange(3), chance.randrange(20)) for _ in range(4)
        ]
        # The others are connections that members hold, or a dead one held.
        for conn, member in zip(connections, members, strict=False):
            conn.execute(queries.announce(member))
        seen = look(connections[0], database)
        assert sorted(seen.members, key=repr) == sorted(members, key=repr)
        assert seen.ours == 6
        assert seen.connections >= 7
        assert (seen.budget, seen.room) == (50, 97)
        for wanted in (3, 1000):
            seen = look(connections[0], database)
            expected = min(wanted, claimable(seen))
            ((more, published),) = rows(connections[0], queries.claim(members[0], wanted, seen, [database.user]))
            assert more == expected
            members[0] = replace(members[0], share=members[0].share + expected)
            assert published == name.format_name(members[0])
            assert members[0] in look(connections[0], database).members


def test_what_others_call_themselves_is_no_member(database: Database) -> None:
    odd = ["tidegate/0000000g/1/1/1/", "tidegate/00000000/-1/1/1/", "tidegate/00000000/1/1", "psql", "tidegate/ / / /"]
    with contextlib.ExitStack() as stack:
        conn = stack.enter_context(direct(database))
        for text in odd:
            stack.enter_context(direct(database, application_name=text))
        # A right name, but somebody else's.
        stack.enter_context(database.server.connect(application_name="tidegate/00000000/1/1/1/"))
        assert look(conn, database).members == []


def test_the_users_names_are_no_sql(database: Database) -> None:
    with direct(database) as conn:
        rows(conn, queries.look(["x'); DROP TABLE y; --", "\\", "'\\'", "ä"]))


@given(
    numbers=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)),
    host=st.ip_addresses().map(str),
    port=st.integers(0, 65535),
)
def test_names_fit_into_what_postgresql_keeps(numbers: tuple[int, int, int], host: str, port: int) -> None:
    share, held, demand = numbers
    address = name.pack_address(host, port)
    text = name.format_name(Member("01234567", share, held, demand, address))
    member = Member("01234567", min(share, 999_999), min(held, 999_999), min(demand, 999_999), address)
    assert len(text) <= 63
    assert name.parse_name(text) == member
    assert name.unpack_address(member.address) == (host, port)


@given(st.integers(0, 2**32 - 1))
def test_process_ids_are_positive_and_tell_their_member(number: int) -> None:
    member_id = f"{number:08x}"
    pid = name.process_id(member_id)
    assert 0 < pid < 2**31
    assert name.tag_of_process(pid) == name.tag_of(member_id)
