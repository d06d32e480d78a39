"""Turns at something that is limited in number, shared fairly between those who come from different places."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable


class Turns:
    """So many turns a second, and so many at a time.

    Each source has a queue of its own, and the sources take turns: however many wait from one of them, another one's
    first waits for one turn of each.

    Parameters: `per_second`, None for any number; `at_once`, of those that have begun and are not `done`.
    """

    def __init__(self, per_second: int | None, at_once: int) -> None:
        self._interval = 1 / per_second if per_second is not None else 0.0
        self._at_once = at_once
        self._running = 0
        self._next_start = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # The source whose turn is next stands first.
        self._queues: OrderedDict[str, deque[Callable[[], bool]]] = OrderedDict()

    def set_rate(self, per_second: int) -> None:
        """Give so many turns a second from now on."""
        self._interval = 1 / per_second

    def queue(self, source: str, begin: Callable[[], bool]) -> None:
        """Wait for a turn of this source's, in its queue.

        Parameters: `begin`, called when the turn has come, which may be at once, begins what it is for; False if that
        is no longer needed: then the turn is the next one's.
        """
        self._queues.setdefault(source, deque()).append(begin)
        self._go_on()

    def done(self) -> None:
        """What has begun in some turn is over."""
        self._running -= 1
        self._go_on()

    def _go_on(self) -> None:
        while self._queues and self._running < self._at_once and self._timer is None:
            if self._interval:
                loop = asyncio.get_running_loop()
                pause = self._next_start - loop.time()
                if pause > 0:
                    self._timer = loop.call_later(pause, self._pause_is_over)
                    return
            source, queue = next(iter(self._queues.items()))
            used = queue.popleft()()
            if not queue:
                del self._queues[source]
            elif used:
                self._queues.move_to_end(source)
            if used:
                self._running += 1
                if self._interval:
                    self._next_start = loop.time() + self._interval

    def _pause_is_over(self) -> None:
        self._timer = None
        self._go_on()

    def close(self) -> None:
        """Give no more turns."""
        self._queues.clear()
        if self._timer is not None:
            self._timer.cancel()
