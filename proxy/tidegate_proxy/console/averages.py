"""What happened in the latest full period: the console's averages and percentiles."""

from __future__ import annotations

import time

from tidegate_proxy.metrics.counts import Counts
from tidegate_proxy.metrics.histogram import grown, summed
from tidegate_proxy.metrics.readings import distributions

Sums = dict[str, dict[str, float]]
Histograms = dict[tuple[str, str], list[int]]
"""Durations in buckets, see `core.statistics`, by database and by metric."""


class Averages:
    """Remembers the counters at the ends of the two latest periods.

    Parameters: `counts`, what is counted. Until the first period has ended, what has happened since the beginning
    stands for it.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._older: tuple[float, Sums, Histograms] = (time.monotonic(), {}, {})
        self._newer: tuple[float, Sums, Histograms] | None = None

    def tick(self, period: float) -> None:
        """End a period of so many seconds if it is time to; called every second or so."""
        now = time.monotonic()
        begin = self._older if self._newer is None else self._newer
        if now - begin[0] >= period:
            self._older = begin
            self._newer = (now, self._counts.sums(), self._histograms())

    def differences(self) -> tuple[float, Sums]:
        """The period's length in seconds, and by how much each counter of each database grew in it."""
        began, before, _ = self._older
        ended, after, _ = self._newer or (time.monotonic(), self._counts.sums(), {})
        return max(ended - began, 1e-3), {
            database: {name: value - before.get(database, {}).get(name, 0) for name, value in sums.items()}
            for database, sums in after.items()
        }

    def latencies(self) -> Histograms:
        """The period's durations."""
        _, _, before = self._older
        after = self._newer[2] if self._newer is not None else self._histograms()
        return {key: grown(counts, before.get(key, [])) for key, counts in after.items()}

    def _histograms(self) -> Histograms:
        found: Histograms = {}
        for (database, _), counts in self._counts.by_database_and_target().items():
            for name, distribution in distributions(counts.clients).items():
                key = (database, name)
                found[key] = summed(found.get(key, []), distribution.counts)
        return found
