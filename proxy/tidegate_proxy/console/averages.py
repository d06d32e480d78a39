"""What happened in the latest full period: the console's averages."""

from __future__ import annotations

import time

from tidegate_proxy.metrics.counts import Counts

Sums = dict[str, dict[str, float]]


class Averages:
    """Remembers the counters at the ends of the two latest periods.

    Parameters: `counts`, what is counted; `period` in seconds. Until the first period has ended, what has happened
    since the beginning stands for it.
    """

    def __init__(self, counts: Counts, period: float) -> None:
        self.period = period
        self._counts = counts
        self._older: tuple[float, Sums] = (time.monotonic(), {})
        self._newer: tuple[float, Sums] | None = None

    def tick(self) -> None:
        """End a period if it is time to; called every second or so."""
        now = time.monotonic()
        begin = self._older if self._newer is None else self._newer
        if now - begin[0] >= self.period:
            self._older = begin
            self._newer = (now, self._counts.sums())

    def differences(self) -> tuple[float, Sums]:
        """The period's length in seconds, and by how much each counter of each database grew in it."""
        began, before = self._older
        ended, after = self._newer or (time.monotonic(), self._counts.sums())
        return max(ended - began, 1e-3), {
            database: {name: value - before.get(database, {}).get(name, 0) for name, value in sums.items()}
            for database, sums in after.items()
        }
