"""Questions about tokens, to STS or to a server: each asked once for all who bring the token, in fair turns."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tidegate_proxy.identity.iam.answer import TryAgain
from tidegate_proxy.identity.iam.once import OncePerToken
from tidegate_proxy.identity.iam.reasons import TOO_MANY_FAILED, Reason, TokenError
from tidegate_proxy.identity.iam.turns import Turns

Answer = TypeVar("Answer")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts: exponential backoff, of which each is a random part."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who has brought a token.

    `source`, where it comes from; `limited`, whether it must fail by now, since too many before it have; `gone`,
    whether it is no longer there.
    """

    source: str
    limited: Callable[[], bool]
    gone: Callable[[], bool]


class _Failures:
    """What went wrong with a question so far. Kept for as long as somebody waits for its answer: so many do."""

    __slots__ = ("count", "latest", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.count = 0
        self.latest: TryAgain | None = None


class Questions(Generic[Answer]):
    """Asks, and keeps the answers while the tokens are good.

    Parameters: `at_once`, most questions at a time; `per_second`, most that begin in a second, None for any number;
    `busy`, what to say where a turn did not come in time.
    """

    def __init__(self, at_once: int, *, per_second: int | None = None, busy: TryAgain) -> None:
        self._answers: OncePerToken[Answer] = OncePerToken()
        self._turns = Turns(per_second, at_once)
        self._busy = busy
        self._failures: dict[bytes, _Failures] = {}

    def set_rate(self, per_second: int) -> None:
        """Begin at most so many in a second from now on."""
        self._turns.set_rate(per_second)

    async def ask(
        self,
        key: bytes,
        expires_at: float,
        find: Callable[[], Coroutine[Any, Any, Answer]],
        client: Client,
        deadline: float,
    ) -> Answer:
        """The answer for a client's token. Where an attempt ends with TryAgain there is another one after a pause.

        Everyone who brings the token waits for a turn of their own source: the first of these asks for all. So neither
        the many tokens of one of them nor its limit keeps the others from the answer.

        Parameters: `key`, the token's hash; `expires_at`, seconds since the epoch; `find`, one attempt, which must end
        in a bounded time; `deadline`, on the event loop's clock.
        Raises: TryAgain, with the latest failure, when the deadline has come; TokenError for a limited client;
        ConnectionResetError for one that is gone; and whatever else `find` raises.
        """
        failures = self._failures.get(key)
        if failures is None:
            failures = self._failures[key] = _Failures()
        failures.waiting += 1
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None]
        search: asyncio.Future[Answer] | None
        is_late = False

        def wake(_: object = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        def be_late() -> None:
            nonlocal is_late
            is_late = True
            wake()

        def begin() -> bool:
            nonlocal search
            if waiter.done():
                return False  # it has given up
            # While it waited, others from there may have failed, and the same token may have been asked about.
            if client.gone() or client.limited() or self._answers.is_there(key):
                wake()
                return False
            search = self._answers.begin(key, expires_at, lambda: self._attempt(key, find))
            search.add_done_callback(wake)
            return True

        # One timer and one future: asyncio's timeout and shield, with a future for the turn, take three times as long.
        timer = loop.call_at(deadline, be_late)
        try:
            while True:
                if client.gone():
                    raise ConnectionResetError("the connection was closed")
                if client.limited():
                    raise TokenError(Reason.LIMIT, TOO_MANY_FAILED)
                if (known := self._answers.known(key)) is not None:
                    return known[0]
                waiter = loop.create_future()
                search = self._answers.search(key)
                if search is not None:
                    search.add_done_callback(wake)
                else:
                    self._turns.queue(client.source, begin)
                await waiter
                if search is not None and search.done():
                    with contextlib.suppress(TryAgain):
                        return search.result()
                if is_late:
                    raise failures.latest or (self._busy if search is None else TryAgain("there was no answer in time"))
        finally:
            timer.cancel()
            failures.waiting -= 1
            if failures.waiting == 0:
                del self._failures[key]

    async def _attempt(self, key: bytes, find: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        try:
            try:
                return await find()
            finally:
                self._turns.done()
        except TryAgain as failure:
            # Nobody may wait any longer.
            failures = self._failures.get(key, _Failures())
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures.count, 10))
            failures.count += 1
            failures.latest = failure
            # A part of the attempt, though its turn is over: whoever brings the token meanwhile waits, too.
            # Jitter only spreads load, so it need not be unpredictable.
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311
            raise

    async def close(self) -> None:
        """Give up what is under way."""
        self._turns.close()
        await self._answers.close()
