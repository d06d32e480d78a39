"""Rates, percentiles and invocations in flight are what the raw data says."""

from __future__ import annotations

import math

import pytest
from tests.loadtests.spike.recordings import PEAK, START, invocations

from tidegate_load.spike.outcomes import OK
from tidegate_load.spike.recording import Invocation
from tidegate_load.spike.series import at_the_peak, in_flight, peak_in_flight, percentile, windows


def invocation(begin: float, end: float, outcome: str = OK) -> Invocation:
    return Invocation(begin, (end - begin) * 1000, outcome, False, False, 1)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_values_that_were_seen(share: float, value: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_there_is_no_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 0.5))


def test_a_caller_that_invokes_again_at_once_is_in_flight_once() -> None:
    assert peak_in_flight([invocation(0, 1), invocation(1, 2), invocation(2, 3)]) == 1


def test_overlapping_invocations_are_in_flight_together() -> None:
    steps = in_flight([invocation(0, 4), invocation(1, 2), invocation(1.5, 3)])
    assert steps == [(0, 1), (1, 2), (1.5, 3), (2, 2), (3, 1), (4, 0)]


def test_the_peak_is_the_first_moment_with_most_in_flight() -> None:
    first, second, later = invocation(0, 2, "x"), invocation(1, 3), invocation(5, 6)
    assert at_the_peak([later, first, second]) == [first, second]
    assert at_the_peak([]) == []
    assert len(at_the_peak(invocations(failing=0))) == PEAK


def test_windows_count_what_ended_in_each_second_and_miss_nothing() -> None:
    made = invocations(failing=3)
    points = windows(made)
    assert sum(point.succeeded for point in points) == 21
    assert sum(point.failed for point in points) == 9
    assert points[0].cold_starts == PEAK
    assert points[0].start == 0
    assert min(each.time for each in made) == START


def test_a_second_in_which_nothing_ended_has_no_latency() -> None:
    points = windows([invocation(0, 0.5), invocation(0, 2.5)])
    assert [math.isnan(point.p99) for point in points] == [False, True, False]
    assert windows([]) == []
