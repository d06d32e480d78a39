"""Metrics for CloudWatch: lines in the Embedded Metric Format.

Its specification (Amazon CloudWatch user guide, "Specification: Embedded metric format") sets the limits here: an array
has at most 100 values, a directive at most 100 metrics, a dimension set at most 30 names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate_proxy.metrics.histogram import grown, summed, values
from tidegate_proxy.metrics.readings import Distribution, Reading
from tidegate_proxy.metrics.registry import BY_NAME, Dimensions, Kind, Metric, Unit

VALUES_IN_ARRAY = 100
MOST_VALUES = 1000
"""Values of one distribution in one period: ten arrays, enough for the 99.9th percentile."""

TARGET_GROUP = "default"
"""RDS Proxy has no other one either."""

Series = tuple[str, tuple[str, ...]]
"""A metric's name, and the values of one of its dimension sets without those that are the same for all."""

_LABELS = {"Target": "target", "TargetRole": "role", "Reason": "reason", "Result": "result"}


@dataclass(frozen=True)
class Names:
    """What is the same in all lines: the namespace, and the values of `ProxyName` and `EndpointName`."""

    namespace: str
    proxy: str
    endpoint: str


class EmfLines:
    """Makes lines of readings; counters are what they have grown by since the lines before.

    Parameters: `names`; `before`, readings at the beginning of the first period.
    """

    def __init__(self, names: Names, before: Iterable[Reading] = ()) -> None:
        self._names = names
        self._before = {_key(reading): reading for reading in _of_all_databases(before)}

    def lines(self, readings: Sequence[Reading], milliseconds: int) -> list[str]:
        """The lines of one period. Parameters: `milliseconds`, Unix time."""
        # No dimension: what a database has counted may go on under another name.
        readings = _of_all_databases(readings)
        recent = [self._since_before(reading) for reading in readings]
        self._before = {_key(reading): reading for reading in readings}
        lines: list[str] = []
        for properties, sets in _by_dimension_values(recent, self._names):
            lines += _lines(self._names.namespace, properties, sets, milliseconds)
        return lines

    def _since_before(self, reading: Reading) -> Reading:
        if BY_NAME[reading.name].kind is Kind.GAUGE:
            return reading
        before = self._before.get(_key(reading))
        value = reading.value
        if isinstance(value, Distribution):
            known = before.value if before is not None and isinstance(before.value, Distribution) else None
            counts = grown(value.counts, known.counts if known is not None else [])
            return Reading(reading.name, reading.labels, Distribution(counts, 0.0))
        known_value = before.value if before is not None and not isinstance(before.value, Distribution) else 0
        return Reading(reading.name, reading.labels, value - known_value)


def _of_all_databases(readings: Iterable[Reading]) -> list[Reading]:
    """Gauges as they are; of the others those that differ in the database alone, together."""
    gauges = []
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], Reading] = {}
    for reading in readings:
        if BY_NAME[reading.name].kind is Kind.GAUGE:
            gauges.append(reading)
            continue
        labels = {name: value for name, value in reading.labels.items() if name != "database"}
        key = reading.name, tuple(sorted(labels.items()))
        value = reading.value
        if (other := sums.get(key)) is not None:
            if isinstance(value, Distribution) and isinstance(other.value, Distribution):
                value = Distribution(summed(other.value.counts, value.counts), other.value.total + value.total)
            elif not isinstance(value, Distribution) and not isinstance(other.value, Distribution):
                value += other.value
        sums[key] = Reading(reading.name, labels, value)
    return [*gauges, *sums.values()]


def _key(reading: Reading) -> tuple[str, tuple[tuple[str, str], ...]]:
    # A target may change its role; what was counted before stays counted.
    return reading.name, tuple(sorted((name, value) for name, value in reading.labels.items() if name != "role"))


_Group = tuple[dict[str, str], dict[tuple[Dimensions, ...], dict[str, Any]]]


def _by_dimension_values(readings: Iterable[Reading], names: Names) -> Iterator[_Group]:
    """Values that share the values of their dimensions: those, and the metrics by their dimension sets."""
    common = {"ProxyName": names.proxy, "EndpointName": names.endpoint, "TargetGroup": TARGET_GROUP}
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[Dimensions, ...], dict[str, Any]]] = {}
    for reading in readings:
        metric = BY_NAME[reading.name]
        for own, sets in _alike(metric).items():
            if any(_LABELS[name] not in reading.labels for name in own):
                continue
            key = tuple((name, reading.labels[_LABELS[name]]) for name in own)
            group = groups.setdefault(key, {}).setdefault(sets, {})
            group[reading.name] = _together(metric, group.get(reading.name), reading.value)
    for key, group_sets in groups.items():
        used = {name for sets in group_sets for dimensions in sets for name in dimensions}
        yield {name: value for name, value in common.items() if name in used} | dict(key), group_sets


def _alike(metric: Metric) -> dict[tuple[str, ...], tuple[Dimensions, ...]]:
    """Its dimension sets by those of their names whose values are not the same for all readings."""
    sets: dict[tuple[str, ...], tuple[Dimensions, ...]] = {}
    for dimensions in metric.dimensions:
        own = tuple(name for name in dimensions if name in _LABELS)
        sets[own] = (*sets.get(own, ()), dimensions)
    return sets


def _together(metric: Metric, one: Any, other: float | Distribution) -> Any:
    if isinstance(other, Distribution):
        return summed(one or [], other.counts)
    if metric.name == "AvailabilityPercentage":
        return other
    if metric.unit is Unit.SECONDS:
        # Clients wait side by side.
        return max(one or 0, other)
    return (one or 0) + other


def _lines(
    namespace: str,
    properties: Mapping[str, str],
    sets: Mapping[tuple[Dimensions, ...], Mapping[str, Any]],
    milliseconds: int,
) -> Iterator[str]:
    """As many lines as the longest distribution takes arrays; numbers are in the first."""
    arrays = {
        name: values(value, MOST_VALUES)
        for metrics in sets.values()
        for name, value in metrics.items()
        if isinstance(value, list)
    }
    count = max([1, *((len(array) + VALUES_IN_ARRAY - 1) // VALUES_IN_ARRAY for array in arrays.values())])
    for number in range(count):
        members: dict[str, Any] = {}
        directives = []
        for dimensions, metrics in sets.items():
            part: dict[str, Any] = {}
            for name, value in metrics.items():
                if name not in arrays:
                    if number == 0:
                        part[name] = round(value, 3)
                elif array := arrays[name][number * VALUES_IN_ARRAY : (number + 1) * VALUES_IN_ARRAY]:
                    part[name] = array
            if part:
                definitions = [{"Name": name, "Unit": BY_NAME[name].unit.value} for name in part]
                directives.append({"Namespace": namespace, "Dimensions": dimensions, "Metrics": definitions})
                members |= part
        if directives:
            metadata = {"Timestamp": milliseconds, "CloudWatchMetrics": directives}
            yield json.dumps({"_aws": metadata, **properties, **members})
