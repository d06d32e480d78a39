"""Numbers over time from a run's invocations: rates, percentiles, how many were in flight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate_load.spike.outcomes import OK
from tidegate_load.spike.recording import Invocation

WINDOW = 1.0
"""Seconds that one point of a series stands for."""


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; `share` from 0 to 1; NaN for no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def in_flight(invocations: Iterable[Invocation]) -> list[tuple[float, int]]:
    """How many invocations were sent and not yet answered, after each change: (unix time, count), by time."""
    changes = sorted(
        change for each in invocations for change in ((each.time, 1), (each.end, -1))
    )  # at the same moment ends sort first, so a caller's next invocation never counts twice
    count = 0
    steps = []
    for moment, change in changes:
        count += change
        steps.append((moment, count))
    return steps


def peak_in_flight(invocations: Iterable[Invocation]) -> int:
    """Most invocations in flight at one moment."""
    return max((count for _, count in in_flight(invocations)), default=0)


def at_the_peak(invocations: Sequence[Invocation]) -> list[Invocation]:
    """The invocations that were in flight when, for the first time, most were."""
    steps = in_flight(invocations)
    if not steps:
        return []
    moment, _ = max(steps, key=lambda step: step[1])  # the first of several
    return [each for each in invocations if each.time <= moment < each.end]


@dataclass(frozen=True)
class Window:
    """What ended, and what began, within one window."""

    start: float
    """Seconds since the run's first invocation."""
    succeeded: int
    failed: int
    cold_starts: int
    p50: float
    p95: float
    p99: float
    """Latency of what ended here, succeeded or failed, milliseconds; NaN if nothing ended."""


def windows(invocations: Sequence[Invocation], width: float = WINDOW) -> list[Window]:
    """Cut a run into windows of `width` seconds, from its first invocation to its last answer."""
    if not invocations:
        return []
    first = min(each.time for each in invocations)
    count = int((max(each.end for each in invocations) - first) / width) + 1
    ended: list[list[Invocation]] = [[] for _ in range(count)]
    cold = [0] * count
    for each in invocations:
        ended[int((each.end - first) / width)].append(each)
        cold[int((each.time - first) / width)] += each.cold_start
    result = []
    for index, group in enumerate(ended):
        latencies = [each.latency_ms for each in group]
        good = sum(each.outcome == OK for each in group)
        result.append(
            Window(
                start=index * width,
                succeeded=good,
                failed=len(group) - good,
                cold_starts=cold[index],
                p50=percentile(latencies, 0.50),
                p95=percentile(latencies, 0.95),
                p99=percentile(latencies, 0.99),
            )
        )
    return result
