"""The dashboard: the life of a query, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from tidegate_infra.alarms.platform_rules import healthy_tasks, service_metric
from tidegate_infra.alarms.proxy_rules import WRITER, share
from tidegate_infra.proxy import TidegateProxy

WIDTH = 24
PERCENTILES = ("p50", "p90", "p99")


class TidegateDashboard(Construct):
    """One row for each station: clients, queue, borrow latency, pool, pins, database latency, errors, tasks.

    Attributes: `dashboard`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        proxy: TidegateProxy,
        alarms: Sequence[cloudwatch.IAlarm] = (),
    ) -> None:
        """Parameters: `alarms`, whose states stand at the top."""
        super().__init__(scope, construct_id)
        self._proxy = proxy
        self.dashboard = cloudwatch.Dashboard(
            self,
            "Dashboard",
            # Its name is the whole account's, in all regions.
            dashboard_name=f"tidegate-{proxy.db_proxy_name}-{Stack.of(self).region}",
            default_interval=Duration.hours(3),
        )
        if alarms:
            self.dashboard.add_widgets(
                cloudwatch.AlarmStatusWidget(title="Alarms", width=WIDTH, height=3, alarms=list(alarms))
            )
        for row in (self._clients(), self._queue(), self._pool(), self._database(), self._errors(), self._tasks()):
            width = WIDTH // len(row)
            self.dashboard.add_widgets(*(self._graph(title, width, metrics) for title, metrics in row))

    def _graph(self, title: str, width: int, metrics: list[cloudwatch.IMetric]) -> cloudwatch.GraphWidget:
        axis = cloudwatch.YAxisProps(min=0)
        return cloudwatch.GraphWidget(title=title, width=width, height=6, left=metrics, left_y_axis=axis)

    def _several(self, *names: str, statistic: str = "Sum") -> list[cloudwatch.IMetric]:
        return [self._proxy.metrics.metric(name, statistic) for name in names]

    def _percentiles(self, name: str) -> list[cloudwatch.IMetric]:
        return [self._proxy.metrics.metric(name, statistic, label=statistic) for statistic in PERCENTILES]

    def _clients(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        return [
            ("Clients", self._several("ClientConnections", "ClientConnectionsTLS", "ClientConnectionsNoTLS")),
            (
                "Logins",
                self._several(
                    "ClientConnectionsReceived", "ClientConnectionsSetupSucceeded", "ClientConnectionsSetupFailedAuth"
                ),
            ),
            ("Queries and transactions", self._several("QueryRequests", "Transactions")),
        ]

    def _queue(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        return [
            ("Clients waiting for a server connection", self._several("BorrowQueueLength")),
            ("Longest wait (s)", self._several("BorrowLongestWait", statistic="Maximum")),
            ("Borrow latency (µs)", self._percentiles("DatabaseConnectionsBorrowLatency")),
        ]

    def _pool(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        metrics = self._proxy.metrics
        pinned = "DatabaseConnectionsCurrentlySessionPinned"
        return [
            (
                "Server connections",
                self._several(
                    "MaxDatabaseConnectionsAllowed",
                    "DatabaseConnections",
                    "DatabaseConnectionsCurrentlyBorrowed",
                    "DatabaseConnectionsCurrentlyInTransaction",
                ),
            ),
            (
                "Pins (percent of server connections)",
                [share(metrics, pinned, "DatabaseConnections", "Pinned, percent of connections")],
            ),
            (
                "Server connections opened",
                self._several(
                    "DatabaseConnectionRequests", "DatabaseConnectionsSetupSucceeded", "DatabaseConnectionsSetupFailed"
                ),
            ),
        ]

    def _database(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        available = self._proxy.metrics.of_role("AvailabilityPercentage", WRITER, "Average")
        return [
            ("Database latency (µs)", self._percentiles("QueryDatabaseResponseLatency")),
            ("Latency as clients see it (µs)", self._percentiles("QueryResponseLatency")),
            ("Writer available (percent)", [available]),
        ]

    def _errors(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        return [
            ("Errors of statements", self._several("QueryErrors")),
            (
                "Refused or given up",
                self._several(
                    "BorrowTimeouts",
                    "DeadlineCancels",
                    "ClientConnectionsSetupFailedAuth",
                    "ClientConnectionsSetupFailedOther",
                ),
            ),
        ]

    def _tasks(self) -> list[tuple[str, list[cloudwatch.IMetric]]]:
        proxy = self._proxy
        wanted = service_metric(proxy, "ECS/ContainerInsights", "DesiredTaskCount", "Maximum")
        return [
            ("Tasks", [healthy_tasks(proxy), wanted]),
            (
                "CPU and memory (percent)",
                [service_metric(proxy, "AWS/ECS", f"{what}Utilization", "Maximum") for what in ("CPU", "Memory")],
            ),
            ("Event-loop lag (µs)", self._percentiles("EventLoopLag")),
        ]
