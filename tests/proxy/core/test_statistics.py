"""What is counted for each transaction, and into which bucket a duration goes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.core.statistics import Statistics, bounds


@given(st.integers(min_value=0, max_value=10**12))
def test_a_duration_is_counted_in_the_bucket_that_it_is_in_and_buckets_are_narrow(microseconds: int) -> None:
    statistics = Statistics()
    # The middle of a microsecond, so that no rounding decides.
    statistics.wait_ended((microseconds + 0.5) / 1e6)
    (index,) = [index for index, count in enumerate(statistics.waits) if count]
    low, high = bounds(index)
    assert low <= microseconds < high
    assert high - low <= max(1, low / 16)


def test_buckets_follow_one_another_without_gaps() -> None:
    edges = [bounds(index) for index in range(500)]
    assert edges[0][0] == 0
    assert all(one[1] == next_[0] for one, next_ in itertools.pairwise(edges))


def test_a_transaction_of_one_request_is_counted_once_and_others_request_by_request() -> None:
    statistics = Statistics()
    now = statistics.clock.read()
    statistics.answered(now, now, 0.0, 1, True)
    assert sum(statistics.alone) == 1
    statistics.answered(now, now - 5, 0.0, 1, False)
    statistics.answered(now, now - 5, 0.0, 2, True)
    assert (statistics.requests, statistics.transactions) == (4, 2)
    assert (sum(statistics.served), sum(statistics.responded), sum(statistics.whole)) == (2, 2, 1)
    assert statistics.transaction_time >= 5 > statistics.request_time


def test_a_client_that_waited_has_been_answered_later_than_the_server_answered() -> None:
    statistics = Statistics()
    statistics.wait_ended(3.0)
    now = statistics.clock.read()
    statistics.answered(now, now, 3.0, 1, True)
    (responded,) = [index for index, count in enumerate(statistics.responded) if count]
    (late,) = [index for index, count in enumerate(statistics.late) if count]
    assert bounds(responded)[1] > 3_000_000 > bounds(late)[1]
    assert not any(statistics.alone + statistics.served + statistics.whole)
