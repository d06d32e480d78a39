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

        def begin(source: str) -> bool:
            order.append(source)
            asyncio.get_running_loop().call_soon(turns.done)
            return True

        sources = ["a"] * 5 + ["b"] * 2 + ["c"]
        await asyncio.gather(*(turns.wait(source, partial(begin, source)) for source in sources))
        assert "".join(order) == "aabcabaa", "the first when nobody else was there"

    run(test())


def test_there_are_never_more_at_a_time_and_all_come_in_the_end() -> None:
    async def test() -> None:
        turns = Turns(FAST, at_once=3)
        running = most = 0

        def begin() -> bool:
            nonlocal running, most
            running += 1
            most = max(most, running)
            asyncio.get_running_loop().call_later(0.001, end)
            return True

        def end() -> None:
            nonlocal running
            running -= 1
            turns.done()

        await asyncio.gather(*(turns.wait("a", begin) for _ in range(20)))
        assert most == 3

    run(test())


def test_who_needs_no_turn_any_more_or_has_given_up_leaves_it_to_the_next() -> None:
    async def test() -> None:
        turns = Turns(1, at_once=2)
        began: list[str] = []

        def begin(name: str, needed: bool) -> bool:
            began.append(name)
            return needed

        await turns.wait("a", lambda: begin("first", True))
        impatient = asyncio.create_task(turns.wait("a", lambda: begin("impatient", True)))
        needless = asyncio.create_task(turns.wait("a", lambda: begin("needless", False)))
        second = asyncio.create_task(turns.wait("a", lambda: begin("second", True)))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(needless, second)
        assert began == ["first", "needless", "second"]

    run(test())
