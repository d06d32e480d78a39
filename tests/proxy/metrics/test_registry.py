"""The list of metrics: RDS Proxy's names, units and dimensions, and what is generated from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tidegate_proxy.metrics.reference import reference
from tidegate_proxy.metrics.registry import ENDPOINT, METRICS, PROXY, ROLE, TARGET, Kind, Unit

ROOT = Path(__file__).parents[3]

# "Monitoring RDS Proxy metrics with Amazon CloudWatch", Amazon RDS user guide.
D1, D2, D3, D4 = PROXY, ENDPOINT, TARGET, ROLE
OF_RDS = {
    "AvailabilityPercentage": (D4,),
    "ClientConnections": (D1, D2),
    "ClientConnectionsClosed": (D1, D2),
    "ClientConnectionsNoTLS": (D1, D2),
    "ClientConnectionsReceived": (D1, D2),
    "ClientConnectionsSetupFailedAuth": (D1, D2),
    "ClientConnectionsSetupSucceeded": (D1, D2),
    "ClientConnectionsTLS": (D1, D2),
    "DatabaseConnectionRequests": (D1, D3, D4),
    "DatabaseConnectionRequestsWithTLS": (D1, D3, D4),
    "DatabaseConnections": (D1, D3, D4),
    "DatabaseConnectionsBorrowLatency": (D1, D2),
    "DatabaseConnectionsCurrentlyBorrowed": (D1, D3, D4),
    "DatabaseConnectionsCurrentlyInTransaction": (D1, D3, D4),
    "DatabaseConnectionsCurrentlySessionPinned": (D1, D3, D4),
    "DatabaseConnectionsSetupFailed": (D1, D3, D4),
    "DatabaseConnectionsSetupSucceeded": (D1, D3, D4),
    "DatabaseConnectionsWithTLS": (D1, D3, D4),
    "MaxDatabaseConnectionsAllowed": (D1, D3, D4),
    "QueryDatabaseResponseLatency": (D1, D2, D3, D4),
    "QueryRequests": (D1, D2),
    "QueryRequestsNoTLS": (D1, D2),
    "QueryRequestsTLS": (D1, D2),
    "QueryResponseLatency": (D1, D2),
}


def test_the_24_metrics_of_rds_proxy_with_their_dimensions_and_units() -> None:
    ours = {metric.name: metric for metric in METRICS if metric.of_rds}
    assert {name: metric.dimensions for name, metric in ours.items()} == OF_RDS
    for name, metric in ours.items():
        unit = Unit.MICROSECONDS if name.endswith("Latency") else Unit.COUNT
        assert metric.unit is (Unit.PERCENT if name == "AvailabilityPercentage" else unit)
        assert metric.statistic == ("Sum" if unit is Unit.COUNT and name != "AvailabilityPercentage" else "Average")


def test_names_are_told_apart_and_say_what_prometheus_wants_of_them() -> None:
    assert len({metric.name for metric in METRICS}) == len({metric.prometheus for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"tidegate_[a-z0-9_]+", metric.prometheus)
        assert metric.prometheus.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.prometheus.endswith("_seconds") == (metric.unit in (Unit.SECONDS, Unit.MICROSECONDS))
        assert metric.kind is not Kind.DISTRIBUTION or metric.unit is Unit.MICROSECONDS


def test_the_page_is_what_the_list_says() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == reference(), "python -m tidegate_proxy.metrics.reference"


def _expressions(panel: Any) -> list[str]:
    return [target["expr"] for target in panel.get("targets", [])] + [
        expression for inner in panel.get("panels", []) for expression in _expressions(inner)
    ]


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "proxy/grafana/tidegate.json").read_text())
    expressions = [expression for panel in dashboard["panels"] for expression in _expressions(panel)]
    kinds = {metric.prometheus: metric.kind for metric in METRICS}
    labels = {metric.prometheus: {*metric.labels, "le", "instance", "job"} for metric in METRICS}
    used = set()
    for expression in expressions:
        names = re.findall(r"tidegate_[a-z0-9_]+", expression)
        assert names, expression
        for name in names:
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            assert plain in kinds, name
            assert (plain != name) == (kinds[plain] is Kind.DISTRIBUTION), name
            assert ("rate(" in expression or "increase(" in expression) == (kinds[plain] is not Kind.GAUGE), expression
            for grouped in re.findall(r"by \(([a-z_, ]+)\)", expression):
                assert {label.strip() for label in grouped.split(",")} <= labels[plain], expression
            used.add(plain)
    assert len(used) >= 20
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
