"""Turns: limited in number, and shared fairly between sources."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial

from tidegate_proxy.identity.iam.turns import Turns

FAST = 1_000_000
"""Turns a second where the rate shall not matter."""


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def test_sources_take_turns_however_many_wait_from_one() -> None:
    async def test() -> None:
        turns = Turns(FAST, at_once=1)
        order: list[str] = []
        all_began = asyncio.Event()

        def begin(source: str) -> bool:
            order.append(source)
            if len(order) == len(sources):
                all_began.set()
            asyncio.get_running_loop().call_soon(turns.done)
            return True

        sources = ["a"] * 5 + ["b"] * 2 + ["c"]
        for source in sources:
            turns.queue(source, partial(begin, source))
        await all_began.wait()
        assert "".join(order) == "aabcabaa", "the first when nobody else was there"

    run(test())


def test_there_are_never_more_at_a_time_and_all_come_in_the_end() -> None:
    async def test() -> None:
        turns = Turns(FAST, at_once=3)
        running = most = 0
        left = 20
        all_over = asyncio.Event()

        def begin() -> bool:
            nonlocal running, most
            running += 1
            most = max(most, running)
            asyncio.get_running_loop().call_later(0.001, end)
            return True

        def end() -> None:
            nonlocal running, left
            running -= 1
            left -= 1
            turns.done()
            if not left:
                all_over.set()

        for _ in range(left):
            turns.queue("a", begin)
        await all_over.wait()
        assert most == 3

    run(test())


def test_who_needs_no_turn_any_more_leaves_it_to_the_next() -> None:
    async def test() -> None:
        turns = Turns(1, at_once=2)
        began: list[str] = []
        second = asyncio.Event()

        def begin(name: str) -> bool:
            began.append(name)
            if name == "second":
                second.set()
            return name != "needless"

        for name in ("first", "needless", "second"):
            turns.queue("a", partial(begin, name))
        assert began == ["first"], "the others wait for the next second"
        await second.wait()
        assert began == ["first", "needless", "second"]

    run(test())


def test_at_the_end_nobody_gets_a_turn_any_more() -> None:
    async def test() -> None:
        turns = Turns(None, at_once=1)
        began: list[str] = []

        def begin(name: str) -> bool:
            began.append(name)
            return True

        for name in ("one", "two"):
            turns.queue(name, partial(begin, name))
        turns.close()
        turns.done()
        assert began == ["one"]

    run(test())
