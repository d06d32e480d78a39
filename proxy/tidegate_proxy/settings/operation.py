"""Settings for those who operate the proxy: console, metrics, logs. Each docstring is an entry of the reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tidegate_proxy.settings.values import Flag, Host, Model, Name, Seconds, SecondsOrZero

Label = Annotated[str, Field(pattern=r"^[ -~]{1,255}$")]
# CloudWatch's rules for namespaces: PutMetricData in the CloudWatch API reference.
Namespace = Annotated[str, Field(pattern=r"^[0-9A-Za-z._\-/#: ]{1,255}$")]


class OperationSettings(Model, frozen=True):
    """What of `Settings` concerns its operation."""

    admin_users: tuple[Name, ...] = ()
    """Users who may connect to the admin console, the virtual database `pgbouncer`, and use all of its commands. They
    need an entry in `users` too. Example: `["admin"]`; as an environment variable, names separated by commas."""

    stats_users: tuple[Name, ...] = ()
    """Users who may connect to the admin console and use `SHOW` only: for monitoring."""

    stats_period: Seconds = 60
    """How long a period is over which the console's averages (`avg_...`) are taken."""

    http_port: Annotated[int, Field(strict=True, ge=0, le=65_535)] | None = None
    """TCP port for HTTP: `/healthz` (alive), `/readyz` (has reached a target once, and is not draining; see
    docs/metrics.md) and `/metrics` (Prometheus); 0 takes any free port. Default: no HTTP. Clear text and open to
    everybody who can reach it, so do not make it public."""

    http_host: Host | None = None
    """Host name or IP address for HTTP. Default: `listen_host`."""

    cloudwatch_metrics: Flag = False
    """Whether to write metrics for CloudWatch on standard output, in the Embedded Metric Format: whatever sends the
    output to CloudWatch Logs makes metrics of it (the awslogs driver of ECS does). Nothing else is written there."""

    cloudwatch_period: Seconds = 60
    """How often they are written."""

    cloudwatch_namespace: Namespace = "Tidegate"
    """Namespace of the metrics in CloudWatch."""

    proxy_name: Label = "tidegate"
    """Value of the metrics' dimension `ProxyName`: one name for all proxies that serve the same databases."""

    endpoint_name: Label = "default"
    """Value of the metrics' dimension `EndpointName`."""

    log_connections: Flag = False
    """Whether to log each client's login and its end: many lines where clients come and go."""

    log_slow_queries: SecondsOrZero = 0
    """Requests that take longer, from the proxy to the server's last answer, are logged: with the statement's kind and
    a fingerprint, never with its values; 0 is never."""
