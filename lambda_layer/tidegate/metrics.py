"""Metrics in CloudWatch's Embedded Metric Format, written by Powertools where it is installed.

They are gathered here and written at the end of an invocation; Powertools is imported when there is something to write
for the first time. The namespace and the service are Powertools' own: `POWERTOOLS_METRICS_NAMESPACE` (`Tidegate` where
that is not set) and `POWERTOOLS_SERVICE_NAME`. `POWERTOOLS_METRICS_DISABLED` turns them off, as it does its own.
"""

from __future__ import annotations

import logging
import os
import time

REUSE_EVERY = 60.0
"""Seconds after which reuses alone are worth a line; until then they wait for another metric's."""

_DURATIONS = frozenset({"Connect", "ColdStartConnect"})

logger = logging.getLogger("tidegate")


class Recorder:
    """Counts and durations of one process that have not been written yet."""

    def __init__(self) -> None:
        self.reused = 0
        self._values: dict[tuple[str, str], list[float]] = {}
        self._written = time.monotonic()
        self._absent = False

    def add(self, name: str, value: float, reason: str = "") -> None:
        """Keep one value. Parameters: `name`, the metric's; `value`, a count or milliseconds; `reason`, a dimension."""
        self._values.setdefault((name, reason), []).append(value)

    def due(self) -> bool:
        """Whether there is something worth writing."""
        return bool(self._values) or (self.reused > 0 and time.monotonic() - self._written > REUSE_EVERY)

    def flush(self, *, wanted: bool) -> None:
        """Write everything to standard output, which Lambda hands to CloudWatch, and forget it.

        Without Powertools, outside Lambda, or if it is not `wanted`, nothing is written.
        """
        values, self._values = self._values, {}
        reused, self.reused = self.reused, 0
        self._written = time.monotonic()
        if self._absent or not wanted or "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
            return
        if reused:
            values["Reuse", ""] = [float(reused)]
        try:
            self._write(values)
        except ImportError:
            self._absent = True
        except Exception as error:
            # A function must not fail because its metrics cannot be written.
            logger.warning("metrics could not be written: %s", type(error).__name__)

    def _write(self, values: dict[tuple[str, str], list[float]]) -> None:
        from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

        for reason in {reason for _, reason in values}:
            # Not the user's own `Metrics`, whose values are shared by all of its instances.
            line = EphemeralMetrics(namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or "Tidegate")
            if reason:
                line.add_dimension("reason", reason)
            for (name, its_reason), numbers in values.items():
                unit = MetricUnit.Milliseconds if name in _DURATIONS else MetricUnit.Count
                # A metric of one line holds a hundred values.
                kept = numbers[:100] if name in _DURATIONS else [sum(numbers)]
                if its_reason == reason:
                    for number in kept:
                        line.add_metric(name=name, unit=unit, value=number)
            line.flush_metrics()


recorder = Recorder()
"""This process's, as Lambda's logs are."""


def count(name: str, *, reason: str = "") -> None:
    """Count one event, for instance `count("Retry", reason="40001")`."""
    recorder.add(name, 1, reason)


def duration(name: str, seconds: float) -> None:
    """Keep one duration, in milliseconds."""
    recorder.add(name, round(seconds * 1000, 3))
