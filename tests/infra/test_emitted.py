"""Alarms, scaling and the dashboard use metrics that the proxy really emits: names, units and dimension sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.infra.template import Assembly
from tests.proxy.lifecycle.conftest import Authority, authority
from tests.support.proxy import StartProxy, eventually

__all__ = ["authority"]

NAMESPACE = "Tidegate"

OF_AWS = {
    "AWS/ECS": {"CPUUtilization", "MemoryUtilization"},
    "AWS/Events": {"TriggeredRules"},
    "AWS/NetworkELB": {"HealthyHostCount"},
    "ECS/ContainerInsights": {"DesiredTaskCount", "RunningTaskCount"},
}
"""Metrics of AWS's own, by namespace, as its user guides name them."""

Series = tuple[str, frozenset[tuple[str, str]]]


def emitted(log: str) -> dict[Series, str]:
    """Units by series, from the lines in the Embedded Metric Format."""
    found: dict[Series, str] = {}
    for line in log.splitlines():
        if not line.startswith('{"_aws"') and '"_aws"' not in line:
            continue
        event = json.loads(line)
        for directive in event["_aws"]["CloudWatchMetrics"]:
            assert directive["Namespace"] == NAMESPACE
            for metric in directive["Metrics"]:
                for names in directive["Dimensions"]:
                    dimensions = frozenset((name, event[name]) for name in names)
                    found[metric["Name"], dimensions] = metric["Unit"]
    return found


def of_alarms(assembly: Assembly) -> Iterator[tuple[str, Series]]:
    """(namespace, series) of every alarm."""
    proxy = assembly["proxy"]
    for alarm in proxy.of_type("AWS::CloudWatch::Alarm").values():
        queries = [query["MetricStat"]["Metric"] for query in alarm.get("Metrics", ()) if "MetricStat" in query]
        for metric in queries or [alarm]:
            yield metric["Namespace"], _series(assembly, metric["MetricName"], metric.get("Dimensions", ()))


def of_scaling(assembly: Assembly) -> Iterator[tuple[str, Series]]:
    for policy in assembly["proxy"].of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values():
        rule = policy["TargetTrackingScalingPolicyConfiguration"]
        if metric := rule.get("CustomizedMetricSpecification"):
            yield metric["Namespace"], _series(assembly, metric["MetricName"], metric["Dimensions"])


def of_dashboard(assembly: Assembly) -> Iterator[tuple[str, Series]]:
    proxy = assembly["proxy"]
    body = json.loads(proxy.text(proxy.one("AWS::CloudWatch::Dashboard")["DashboardBody"]))
    for widget in body["widgets"]:
        for entry in widget["properties"].get("metrics", ()):
            if isinstance(entry[0], str):
                names = [part for part in entry[2:] if isinstance(part, str)]
                yield entry[0], (entry[1], frozenset(zip(names[::2], names[1::2], strict=True)))


def _series(assembly: Assembly, name: str, dimensions: Any) -> Series:
    text = assembly["proxy"].text
    return name, frozenset((dimension["Name"], text(dimension["Value"])) for dimension in dimensions)


def test_every_metric_that_is_watched_is_one_that_a_running_proxy_emits(
    default: Assembly, start_proxy: StartProxy, authority: Authority
) -> None:
    (name,) = {value for key, value in default["proxy"].environment().items() if key == "TIDEGATE_PROXY_NAME"}
    used = [*of_alarms(default), *of_scaling(default), *of_dashboard(default)]
    ours = {series for namespace, series in used if namespace == NAMESPACE}
    assert len(ours) > 20
    proxy = start_proxy(
        cloudwatch_metrics=True,
        cloudwatch_period=0.5,
        proxy_name=name,
        client_tls_cert=str(authority.certificate),
        client_tls_key=str(authority.key),
    )
    with proxy.connect() as client:

        def seen() -> dict[Series, str]:
            # What is counted is told when it has happened: queries and transactions, for one.
            client.execute("SELECT 1")
            return emitted(proxy.log)

        eventually(lambda: ours <= seen().keys(), timeout=60, what=f"{sorted(map(str, ours - seen().keys()))}")
        units = seen()
    for series in ours:
        if "Latency" in series[0] or "Lag" in series[0]:
            assert units[series] == "Microseconds", series


def test_every_other_metric_is_one_of_aws(default: Assembly, small: Assembly) -> None:
    for assembly in (default, small):
        for namespace, (name, dimensions) in [*of_alarms(assembly), *of_dashboard(assembly)]:
            if namespace != NAMESPACE:
                assert name in OF_AWS[namespace], (namespace, name)
                assert dimensions
