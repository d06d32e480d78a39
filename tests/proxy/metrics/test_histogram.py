"""Percentiles, values and coarser buckets from fine ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.core.statistics import Statistics
from tidegate_proxy.metrics.histogram import add, cumulative, grown, percentile, summed, values

durations = st.lists(st.integers(min_value=0, max_value=10**9), min_size=1, max_size=300)


def counted(microseconds: list[int]) -> list[int]:
    counts: list[int] = []
    for duration in microseconds:
        add(counts, (duration + 0.5) / 1e6)
    return counts


@given(durations)
def test_it_counts_as_the_core_does(microseconds: list[int]) -> None:
    core = Statistics()
    for duration in microseconds:
        core.wait_ended((duration + 0.5) / 1e6)
    assert core.waits == counted(microseconds)


@given(durations)
def test_values_are_those_that_were_counted_to_within_a_few_per_cent(microseconds: list[int]) -> None:
    found = values(counted(microseconds), 1000)
    assert len(found) == len(microseconds)
    for value, real in zip(found, sorted(microseconds), strict=True):
        assert abs(value - real) <= max(0.5, real / 31)


@given(durations, st.integers(min_value=2, max_value=50))
def test_of_more_than_there_is_room_for_the_extremes_are_kept(microseconds: list[int], most: int) -> None:
    counts = counted(microseconds)
    everything, some = values(counts, 1000), values(counts, most)
    assert len(some) == min(most, len(microseconds))
    assert (some[0], some[-1]) == (everything[0], everything[-1])
    assert set(some) <= set(everything)


@given(durations)
def test_a_percentile_is_one_of_the_values(microseconds: list[int]) -> None:
    counts = counted(microseconds)
    everything = values(counts, 1000)
    assert percentile(counts, 0.5) == everything[len(everything) // 2]
    assert percentile(counts, 1.0) == everything[-1]
    assert percentile([], 0.5) is None


@given(durations, durations)
def test_what_has_grown_and_what_is_together(one: list[int], other: list[int]) -> None:
    before, both = counted(one), counted(one + other)
    assert sum(grown(both, before)) == len(other)
    assert summed(before, grown(both, before)) == both


@given(durations)
def test_coarse_buckets_never_count_what_is_longer(microseconds: list[int]) -> None:
    edges = [100.0, 1e3, 1e6, 1e9, 2e9]
    found = cumulative(counted(microseconds), edges)
    assert found == sorted(found)
    assert found[-1] == len(microseconds)
    for edge, count in zip(edges, found, strict=True):
        exact = sum(duration <= edge for duration in microseconds)
        assert sum(duration <= edge * 15 / 16 for duration in microseconds) <= count <= exact
