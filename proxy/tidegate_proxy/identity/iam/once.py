"""Answers about tokens: each looked for once, however many ask at a time, and kept while the token is good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")

MAX_KEPT = 20_000
"""Answers that are kept. Each is some hundred bytes."""


class OncePerToken(Generic[Answer]):
    """A cache with single flight. Failures are not kept: everyone who waits gets them, and who comes later asks again.

    `kept`, how many asked for what was known; `joined`, how many waited for what somebody else asked.
    """

    def __init__(self) -> None:
        self.kept = 0
        self.joined = 0
        self._answers: dict[bytes, tuple[float, Answer]] = {}
        self._flights: dict[bytes, asyncio.Task[Answer]] = {}

    async def get(self, key: bytes, expires_at: float, find: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer for a token.

        Parameters: `key`, the token's hash; `expires_at`, seconds since the epoch, until when the answer may be kept;
        `find`, begins the search. The search goes on when the one who began it gives up, since others may wait for it.
        Raises: whatever `find` raises.
        """
        known = self._answers.get(key)
        if known is not None and time.time() < known[0]:
            self.kept += 1
            return known[1]
        flight = self._flights.get(key)
        if flight is not None:
            self.joined += 1
            return await asyncio.shield(flight)
        return await asyncio.shield(self.begin(key, expires_at, find))

    def needs_search(self, key: bytes) -> bool:
        """Whether the answer is not known, nor looked for at present."""
        known = self._answers.get(key)
        return key not in self._flights and (known is None or time.time() >= known[0])

    def begin(
        self, key: bytes, expires_at: float, find: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> asyncio.Task[Answer]:
        """Begin the search where it is needed; parameters as for `get`. Whoever waits for the task must shield it."""
        self._answers.pop(key, None)
        flight = asyncio.get_running_loop().create_task(find())
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._landed(key, expires_at, done))
        return flight

    def _landed(self, key: bytes, expires_at: float, flight: asyncio.Task[Answer]) -> None:
        del self._flights[key]
        # Asking for the exception also says that somebody has seen it, where nobody waits any longer.
        if flight.cancelled() or flight.exception() is not None:
            return
        if len(self._answers) >= MAX_KEPT:
            self._make_room()
        self._answers[key] = (expires_at, flight.result())

    def _make_room(self) -> None:
        now = time.time()
        self._answers = {key: kept for key, kept in self._answers.items() if kept[0] > now}
        # The oldest are those that end soonest.
        for key in list(self._answers)[: max(0, len(self._answers) - MAX_KEPT * 9 // 10)]:
            del self._answers[key]

    async def close(self) -> None:
        """End every search that is under way."""
        flights = [*self._flights.values()]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
