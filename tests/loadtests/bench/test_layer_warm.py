"""What the layer costs a warm invocation is measured, and it adds no round trip."""

from __future__ import annotations

from tidegate_load.bench import layer_warm


def test_every_kind_is_measured_and_takes_no_round_trip_of_its_own() -> None:
    results = layer_warm.measure(rounds=3, calls=20)
    assert [warm.round_trips for warm in results.values()] == [0, 3, 3, 3]
    for name, warm in results.items():
        assert warm.round_trips == warm.round_trips_without, name
        assert warm.own.count == 3, name
    assert [str(cell) for cell in next(iter(layer_warm.table(results).columns)).cells] == list(results)
