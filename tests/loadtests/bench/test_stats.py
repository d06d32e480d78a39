"""Medians, quartiles, percentiles and ratios, on numbers whose result is known."""

from __future__ import annotations

import pytest

from tidegate_load.bench.stats import Spread, paired_ratios, percentile, spread


def test_the_spread_is_the_median_and_the_quartiles() -> None:
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(2.0, 3.0, 4.0, 5)


def test_a_single_round_has_no_width() -> None:
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_no_rounds_are_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([3.0, 9.0], 0.99) == 9.0


def test_ratios_are_taken_within_a_round() -> None:
    # The machine was ten times as slow in round 2, for both.
    assert paired_ratios({1: 2.0, 2: 20.0, 3: 3.0}, {1: 1.0, 2: 10.0, 4: 5.0}) == [2.0, 2.0]


def test_a_round_in_which_the_reference_is_zero_has_no_ratio() -> None:
    assert paired_ratios({1: 2.0, 2: 4.0}, {1: 0.0, 2: 2.0}) == [2.0]
