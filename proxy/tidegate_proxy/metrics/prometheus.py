"""The metrics in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tidegate_proxy.metrics.histogram import cumulative, summed
from tidegate_proxy.metrics.readings import Distribution, Reading
from tidegate_proxy.metrics.registry import METRICS, Kind, Metric

__all__ = ["CONTENT_TYPE_LATEST", "EDGES", "Exposition", "of_workers"]

EDGES = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
"""Upper ends of the histograms' buckets in seconds: from a query that the server has in its cache to the longest wait
that the defaults allow."""


class Exposition:
    """What Prometheus is told. Parameters: `read`, which gives all readings."""

    def __init__(self, read: Callable[[], list[Reading]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(read))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics, as of now."""
        return generate_latest(self._registry)


def of_workers(texts: Mapping[int, str]) -> bytes:
    """The metrics of several workers as one text, each with the label `worker`: when one of them is started again, its
    counters begin anew, which a sum would hide.

    Parameters: `texts`, what each of them tells.
    """
    families: dict[str, Family] = {}
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Family(family.name, family.documentation, family.type))
            whole.samples += [
                sample._replace(labels=sample.labels | {"worker": str(worker)}) for sample in family.samples
            ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


class _Collector(Collector):
    def __init__(self, read: Callable[[], list[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        readings: dict[str, list[Reading]] = {}
        for reading in self._read():
            readings.setdefault(reading.name, []).append(reading)
        for metric in METRICS:
            yield _family(metric, readings.get(metric.name, []))


def _family(metric: Metric, readings: Iterable[Reading]) -> Family:
    if metric.kind is Kind.DISTRIBUTION:
        histogram = HistogramMetricFamily(metric.prometheus, metric.meaning, labels=metric.labels)
        for labels, distribution in _distributions(metric, readings).items():
            edges = cumulative(distribution.counts, [edge * 1e6 for edge in EDGES])
            buckets = [(f"{edge:g}", float(count)) for edge, count in zip(EDGES, edges, strict=True)]
            histogram.add_metric(labels, [*buckets, ("+Inf", float(sum(distribution.counts)))], distribution.total)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(metric.prometheus, metric.meaning, labels=metric.labels)
    sums: dict[tuple[str, ...], float] = {}
    for reading in readings:
        if not isinstance(reading.value, Distribution):
            labels = tuple(reading.labels[name] for name in metric.labels)
            sums[labels] = sums.get(labels, 0) + reading.value
    for labels, value in sums.items():
        family.add_metric(labels, value)
    return family


def _distributions(metric: Metric, readings: Iterable[Reading]) -> dict[tuple[str, ...], Distribution]:
    found: dict[tuple[str, ...], Distribution] = {}
    for reading in readings:
        if isinstance(reading.value, Distribution):
            labels = tuple(reading.labels[name] for name in metric.labels)
            before = found.get(labels, Distribution([], 0.0))
            found[labels] = Distribution(
                summed(before.counts, reading.value.counts), before.total + reading.value.total
            )
    return found
