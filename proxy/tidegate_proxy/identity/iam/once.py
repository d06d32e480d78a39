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
    """A cache with single flight. Failures are not kept: all who wait get them, and who comes later asks again."""

    def __init__(self) -> None:
        self._answers: dict[bytes, tuple[float, Answer]] = {}
        self._flights: dict[bytes, asyncio.Task[Answer]] = {}

    def known(self, key: bytes) -> tuple[Answer] | None:
        """The answer for a token. Parameters: `key`, the token's hash."""
        known = self._answers.get(key)
        return (known[1],) if known is not None and time.time() < known[0] else None

    def search(self, key: bytes) -> asyncio.Future[Answer] | None:
        """The search for the answer that is under way. It is not to be cancelled: others may wait for it, too."""
        return self._flights.get(key)

    def is_there(self, key: bytes) -> bool:
        """Whether the answer is known, or searched for."""
        return key in self._flights or self.known(key) is not None

    def begin(
        self, key: bytes, expires_at: float, find: Callable[[], Coroutine[Any, Any, Answer]]
    ) -> asyncio.Future[Answer]:
        """Begin a search where nothing `is_there`. It goes on when the one who began it gives up.

        Parameters: `key`, as for `known`; `expires_at`, seconds since the epoch, until when the answer may be kept.
        Returns: what `search` will return.
        """
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
