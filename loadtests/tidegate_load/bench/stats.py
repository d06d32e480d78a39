"""The few statistics that the benchmark needs, on plain lists of numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of the rounds."""

    low: float
    median: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, within the range of the values.

    Raises: ValueError when there is no value.
    """
    if not values:
        raise ValueError("no values")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high, len(values))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` (0 to 1) of all; `ordered` ascending.

    Raises: ValueError when there is no value.
    """
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def paired_ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours divided by theirs, round by round, for the rounds that both have.

    Rounds are compared with themselves, since a machine that is busy for a while slows both. A round in which theirs
    is not above zero has no ratio.
    """
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number] > 0]
