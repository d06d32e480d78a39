"""Questions about tokens, to STS or to a server: each asked once for all who bring the token, in fair turns."""

from __future__ import annotations

import asyncio
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


class _Waiting(Generic[Answer]):
    """A client that waits for an answer: called back, and no task, of which a storm of logins would have hundreds."""

    __slots__ = (
        "_client",
        "_expires_at",
        "_failures",
        "_find",
        "_judge",
        "_key",
        "_questions",
        "_search",
        "_timer",
        "answer",
    )

    def __init__(
        self,
        questions: Questions[Answer],
        key: bytes,
        expires_at: float,
        find: Callable[[], Coroutine[Any, Any, Answer]],
        client: Client,
        deadline: float,
        judge: Callable[[Answer], None] | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self._questions = questions
        self._key = key
        self._expires_at = expires_at
        self._find = find
        self._client = client
        self._judge = judge
        # What it waits for; None for a turn.
        self._search: asyncio.Future[Answer] | None = None
        self._failures = questions.failures.setdefault(key, _Failures())
        self._failures.waiting += 1
        self._timer = loop.call_at(deadline, self._late)
        self.answer.add_done_callback(self._over)
        self._go_on()

    def _go_on(self) -> None:
        answers = self._questions.answers
        if self.answer.done():
            return
        if self._client.gone():
            self.answer.set_exception(ConnectionResetError("the connection was closed"))
        elif self._client.limited():
            self.answer.set_exception(TokenError(Reason.LIMIT, TOO_MANY_FAILED))
        elif (known := answers.known(self._key)) is not None:
            self._take(known[0])
        elif (search := answers.search(self._key)) is not None:
            self._search = search
            search.add_done_callback(self._searched)
        else:
            self._search = None
            self._questions.turns.queue(self._client.source, self._begin)

    def _begin(self) -> bool:
        if self.answer.done():
            return False
        # While it waited, others from there may have failed, and the same token may have been asked about.
        if self._client.gone() or self._client.limited() or self._questions.answers.is_there(self._key):
            # Not here and now: it may want a turn again, of those that are just being given.
            asyncio.get_running_loop().call_soon(self._go_on)
            return False
        self._search = self._questions.answers.begin(self._key, self._expires_at, self._attempt)
        self._search.add_done_callback(self._searched)
        return True

    def _attempt(self) -> Coroutine[Any, Any, Answer]:
        return self._questions.attempt(self._key, self._find)

    def _searched(self, search: asyncio.Future[Answer]) -> None:
        if self.answer.done():
            return
        if search.cancelled():
            self.answer.cancel()
        elif (error := search.exception()) is None:
            self._take(search.result())
        elif isinstance(error, TryAgain):
            self._go_on()
        else:
            self.answer.set_exception(error)

    def _take(self, answer: Answer) -> None:
        try:
            if self._judge is not None:
                self._judge(answer)
        except Exception as error:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(answer)

    def _late(self) -> None:
        if not self.answer.done():
            # Each time another one: an exception keeps all who have raised it.
            why = self._questions.busy() if self._search is None else TryAgain("there was no answer in time")
            self.answer.set_exception(self._failures.latest or why)

    def _over(self, _: object) -> None:
        self._timer.cancel()
        self._failures.waiting -= 1
        if self._failures.waiting == 0:
            del self._questions.failures[self._key]


class Questions(Generic[Answer]):
    """Asks, and keeps the answers while the tokens are good.

    Parameters: `at_once`, most questions at a time; `per_second`, most that begin in a second, None for any number;
    `busy`, makes what to say where a turn did not come in time.
    """

    def __init__(self, at_once: int, *, per_second: int | None = None, busy: Callable[[], TryAgain]) -> None:
        self.answers: OncePerToken[Answer] = OncePerToken()
        self.turns = Turns(per_second, at_once)
        self.busy = busy
        self.failures: dict[bytes, _Failures] = {}

    def set_rate(self, per_second: int) -> None:
        """Begin at most so many in a second from now on."""
        self.turns.set_rate(per_second)

    def ask(
        self,
        key: bytes,
        expires_at: float,
        find: Callable[[], Coroutine[Any, Any, Answer]],
        client: Client,
        deadline: float,
        judge: Callable[[Answer], None] | None = None,
    ) -> asyncio.Future[Answer]:
        """The answer for a client's token. Where an attempt ends with TryAgain there is another one after a pause.

        Everyone who brings the token waits for a turn of their own source: the first of these asks for all. So neither
        the many tokens of one of them nor its limit keeps the others from the answer.

        Parameters: `key`, the token's hash; `expires_at`, seconds since the epoch; `find`, one attempt, which must end
        in a bounded time; `deadline`, on the event loop's clock; `judge`, raises where the answer is none for this
        client.
        Returns: a future, for the caller to cancel if nobody wants the answer any more.
        Its exceptions: TryAgain, with the latest failure, when the deadline has come; TokenError for a limited client;
        ConnectionResetError for one that is gone; and whatever else `find` and `judge` raise.
        """
        return _Waiting(self, key, expires_at, find, client, deadline, judge).answer

    async def attempt(self, key: bytes, find: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Look for an answer in a turn that has begun. Raises: what `find` raises, TryAgain after a pause."""
        try:
            try:
                return await find()
            finally:
                self.turns.done()
        except TryAgain as failure:
            # Nobody may wait any longer.
            failures = self.failures.get(key, _Failures())
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures.count, 10))
            failures.count += 1
            failures.latest = failure
            # A part of the attempt, though its turn is over: whoever brings the token meanwhile waits, too.
            # Jitter only spreads load, so it need not be unpredictable.
            await asyncio.sleep(random.uniform(0, longest))  # noqa: S311
            raise

    async def close(self) -> None:
        """Give up what is under way."""
        self.turns.close()
        await self.answers.close()
