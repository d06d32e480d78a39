"""The proxy's own metrics in CloudWatch, with the dimension sets that it emits them with."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

NAMESPACE = "Tidegate"

TARGET_GROUP = {"TargetGroup": "default"}


class ProxyMetrics:
    """The metrics of one proxy. Each task emits once a minute, so a sum over a minute is the fleet's."""

    def __init__(self, proxy_name: str) -> None:
        self.proxy_name = proxy_name

    def metric(
        self,
        name: str,
        statistic: str = "Sum",
        *,
        dimensions: dict[str, str] | None = None,
        label: str | None = None,
        period: Duration | None = None,
    ) -> cloudwatch.Metric:
        """One metric.

        Parameters: `statistic`, CloudWatch's word (`Sum`, `p99`); `dimensions`, beside the proxy's name; `period`, a
        minute if absent.
        """
        return cloudwatch.Metric(
            namespace=NAMESPACE,
            metric_name=name,
            dimensions_map={"ProxyName": self.proxy_name, **(dimensions or {})},
            statistic=statistic,
            period=period or Duration.minutes(1),
            label=label,
        )

    def of_role(self, name: str, role: str, statistic: str = "Sum") -> cloudwatch.Metric:
        """A metric of the targets in one role, READ_WRITE or READ_ONLY."""
        return self.metric(name, statistic, dimensions={**TARGET_GROUP, "TargetRole": role})
