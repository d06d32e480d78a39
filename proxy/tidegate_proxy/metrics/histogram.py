"""What can be told from the buckets of `core.statistics`: percentiles, values, coarser buckets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from tidegate_proxy.core.statistics import PER_OCTAVE, bounds


def add(counts: list[int], seconds: float) -> None:
    """Count a duration, as the core does."""
    microseconds = max(0, int(seconds * 1e6))
    shift = max(0, microseconds.bit_length() - (2 * PER_OCTAVE - 1).bit_length())
    index = shift * PER_OCTAVE + (microseconds >> shift)
    counts.extend([0] * (index + 1 - len(counts)))
    counts[index] += 1


def summed(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """Two histograms together."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    together = list(longer)
    for index, count in enumerate(shorter):
        together[index] += count
    return together


def grown(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """What was counted between two looks at the same histogram."""
    return [count - (before[index] if index < len(before) else 0) for index, count in enumerate(now)]


def middle(index: int) -> float:
    """Microseconds in the middle of a bucket, at most a thirty-second away from what was measured."""
    low, high = bounds(index)
    return (low + high - 1) / 2


def values(counts: Sequence[int], most: int) -> list[float]:
    """Durations in microseconds, in ascending order.

    Returns: every one that was counted; if there are more than `most`, so many of them, at equal steps through the
    sorted ones, the least and the greatest among them.
    """
    total = sum(counts)
    if total == 0:
        return []
    ends = list(accumulate(counts))
    taken = min(total, most)
    found: list[float] = []
    index = 0
    for number in range(taken):
        rank = number if total <= most else round(number * (total - 1) / (taken - 1))
        while ends[index] <= rank:
            index += 1
        found.append(middle(index))
    return found


def percentile(counts: Sequence[int], part: float) -> float | None:
    """The duration in microseconds below which this part (0 to 1) of all is; None if there are none."""
    total = sum(counts)
    rank = min(total - 1, int(part * total))
    for index, end in enumerate(accumulate(counts)):
        if end > rank >= 0:
            return middle(index)
    return None


def cumulative(counts: Sequence[int], edges: Sequence[float]) -> list[int]:
    """How many durations were no longer than each of these edges, in ascending microseconds."""
    found: list[int] = []
    index = so_far = 0
    for edge in edges:
        while index < len(counts) and bounds(index)[1] - 1 <= edge:
            so_far += counts[index]
            index += 1
        found.append(so_far)
    return found
