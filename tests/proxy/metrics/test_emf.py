"""Lines for CloudWatch: by the rules of the Embedded Metric Format, with the series that RDS Proxy has."""

from __future__ import annotations

import json
from typing import Any

from tidegate_proxy.metrics.emf import EmfLines, Names
from tidegate_proxy.metrics.histogram import add
from tidegate_proxy.metrics.readings import Distribution, Reading
from tidegate_proxy.metrics.registry import BY_NAME

NAMES = Names("Tidegate", "p1", "default")


def series(lines: list[str]) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]:
    """What CloudWatch makes of lines: values by name and dimensions. Sees that every rule is kept."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for line in lines:
        assert len(line) < 256_000
        event: dict[str, Any] = json.loads(line)
        assert isinstance(event["_aws"]["Timestamp"], int)
        seen: set[str] = set()
        for directive in event["_aws"]["CloudWatchMetrics"]:
            assert directive["Namespace"] == "Tidegate"
            assert len(directive["Metrics"]) <= 100
            for definition in directive["Metrics"]:
                name, value = definition["Name"], event[definition["Name"]]
                assert definition["Unit"] == BY_NAME[name].unit.value
                assert name not in seen
                seen.add(name)
                values = value if isinstance(value, list) else [value]
                assert 1 <= len(values) <= 100
                for dimensions in directive["Dimensions"]:
                    assert tuple(dimensions) in BY_NAME[name].dimensions
                    key = tuple((dimension, event[dimension]) for dimension in dimensions)
                    assert all(isinstance(part, str) and part for _, part in key)
                    found.setdefault((name, key), []).extend(values)
    return found


P = ("ProxyName", "p1")
G = ("TargetGroup", "default")


def on(target: str, role: str) -> dict[str, str]:
    return {"database": "app", "target": target, "role": role}


def test_a_gauge_is_summed_over_targets_and_stands_for_each_target_and_role() -> None:
    found = series(
        EmfLines(NAMES).lines(
            [
                Reading("DatabaseConnections", on("a:1", "READ_WRITE"), 3),
                Reading("DatabaseConnections", on("b:1", "READ_ONLY"), 4),
                Reading("DatabaseConnections", on("c:1", "READ_ONLY"), 5),
                Reading("ClientConnections", {}, 2),
            ],
            1,
        )
    )
    assert found == {
        ("DatabaseConnections", (P,)): [12],
        ("DatabaseConnections", (P, G, ("Target", "a:1"))): [3],
        ("DatabaseConnections", (P, G, ("Target", "b:1"))): [4],
        ("DatabaseConnections", (P, G, ("Target", "c:1"))): [5],
        ("DatabaseConnections", (P, G, ("TargetRole", "READ_WRITE"))): [3],
        ("DatabaseConnections", (P, G, ("TargetRole", "READ_ONLY"))): [9],
        ("ClientConnections", (P,)): [2],
        ("ClientConnections", (P, ("EndpointName", "default"))): [2],
    }


def test_the_longest_wait_is_that_of_one_client_not_a_sum_over_databases() -> None:
    readings = [
        Reading("BorrowLongestWait", on("a:1", "READ_WRITE") | {"database": name}, wait)
        for name, wait in (("one", 50.0), ("two", 40.0), ("three", 0.0))
    ]
    found = series(EmfLines(NAMES).lines(readings, 1))
    assert found == {
        ("BorrowLongestWait", (P,)): [50],
        ("BorrowLongestWait", (P, G, ("Target", "a:1"))): [50],
    }


def test_a_counter_is_what_it_has_grown_by_even_when_the_target_changes_its_role() -> None:
    lines = EmfLines(NAMES)
    lines.lines([Reading("QueryRequests", on("a:1", "UNKNOWN"), 5)], 1)
    found = series(lines.lines([Reading("QueryRequests", on("a:1", "READ_WRITE"), 7)], 2))
    assert found[("QueryRequests", (P,))] == [2]


def test_what_goes_on_to_be_counted_under_another_database_has_not_grown() -> None:
    def counted(database: str) -> list[Reading]:
        labels = on("a:1", "READ_WRITE") | {"database": database}
        return [
            Reading("DatabaseConnectionsSetupFailed", labels, 5),
            Reading("QueryResponseLatency", labels, Distribution([0, 4], 0.1)),
        ]

    lines = EmfLines(NAMES)
    lines.lines(counted("guess"), 1)
    found = series(lines.lines(counted("*"), 2))
    assert found[("DatabaseConnectionsSetupFailed", (P,))] == [0]
    assert not any(name == "QueryResponseLatency" for name, _ in found)


def test_distributions_are_single_values_in_arrays_of_at_most_a_hundred() -> None:
    counts: list[int] = []
    for microseconds in range(1, 251):
        add(counts, (microseconds + 0.5) / 1e6)
    lines = EmfLines(NAMES)
    reading = Reading("QueryResponseLatency", {"database": "app"}, Distribution(counts, 0.0))
    written = lines.lines([reading, Reading("ClientConnections", {}, 1)], 1)
    found = series(written)
    values = found[("QueryResponseLatency", (P,))]
    assert len(written) == 3
    assert len(values) == 250
    assert abs(sorted(values)[125] - 126) < 126 / 31
    # Numbers are told once, however many arrays there are.
    assert found[("ClientConnections", (P,))] == [1]
    # Nothing new: nothing is told.
    assert ("QueryResponseLatency", (P,)) not in series(lines.lines([reading], 2))


def test_a_hundred_thousand_requests_are_told_in_a_thousand_values() -> None:
    counts = [0] * 100 + [99_000] + [0] * 100 + [1_000]
    values = series(
        EmfLines(NAMES).lines([Reading("TransactionLatency", {"database": "app"}, Distribution(counts, 0.0))], 1)
    )[("TransactionLatency", (P,))]
    assert len(values) == 1000
    assert values.count(max(values)) == 10


def test_pins_are_told_by_reason_and_together() -> None:
    readings = [
        Reading("SessionPins", {"database": "app", "target": "a:1", "role": "UNKNOWN", "reason": reason}, count)
        for reason, count in (("listen", 2), ("temporary object", 1))
    ]
    found = series(EmfLines(NAMES).lines(readings, 1))
    assert found == {
        ("SessionPins", (P,)): [3],
        ("SessionPins", (P, ("Reason", "listen"))): [2],
        ("SessionPins", (P, ("Reason", "temporary object"))): [1],
    }
