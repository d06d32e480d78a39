"""Every metric of the proxy, once: what CloudWatch, Prometheus, docs/metrics.md and alarms know of it is from here.

The first 24 have the names, units, dimensions and meanings of RDS Proxy's ("Monitoring RDS Proxy metrics with Amazon
CloudWatch" in the Amazon RDS user guide), so that dashboards and alarms need only another namespace.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final


class Kind(StrEnum):
    """How values behave."""

    GAUGE = "gauge"
    """What is the case at the moment."""

    COUNTER = "counter"
    """How often something has happened; CloudWatch gets the number of each period."""

    DISTRIBUTION = "distribution"
    """Durations; CloudWatch gets single values, Prometheus a histogram in seconds."""


class Unit(StrEnum):
    """Units of CloudWatch (MetricDatum in its API reference)."""

    COUNT = "Count"
    PERCENT = "Percent"
    SECONDS = "Seconds"
    MICROSECONDS = "Microseconds"
    BYTES = "Bytes"


Dimensions = tuple[str, ...]

PROXY: Final[Dimensions] = ("ProxyName",)
ENDPOINT: Final[Dimensions] = ("ProxyName", "EndpointName")
TARGET: Final[Dimensions] = ("ProxyName", "TargetGroup", "Target")
ROLE: Final[Dimensions] = ("ProxyName", "TargetGroup", "TargetRole")
REASON: Final[Dimensions] = ("ProxyName", "Reason")
RESULT: Final[Dimensions] = ("ProxyName", "Result")

_CLIENTS = (PROXY, ENDPOINT)
_SERVERS = (PROXY, TARGET, ROLE)

# Labels in Prometheus.
_BY_DATABASE = ("database",)
_BY_TARGET = ("database", "target")


@dataclass(frozen=True)
class Metric:
    """One metric.

    - `name`, `unit`, `dimensions`: in CloudWatch; each of the dimension sets is a series of its own.
    - `prometheus`, `labels`: its name and labels there; times are in seconds there.
    - `statistic`: what of it to look at in CloudWatch.
    - `of_rds`: RDS Proxy has it, too.
    """

    name: str
    kind: Kind
    unit: Unit
    dimensions: tuple[Dimensions, ...]
    prometheus: str
    meaning: str
    labels: tuple[str, ...] = ()
    statistic: str = "Sum"
    of_rds: bool = False


def _own(
    name: str,
    kind: Kind,
    dimensions: tuple[Dimensions, ...],
    prometheus: str,
    meaning: str,
    *,
    labels: tuple[str, ...] = (),
    unit: Unit = Unit.COUNT,
    statistic: str = "Sum",
    of_rds: bool = False,
) -> Metric:
    return Metric(name, kind, unit, dimensions, f"tidegate_{prometheus}", meaning, labels, statistic, of_rds)


_rds: Final = partial(_own, of_rds=True)


METRICS: Final[tuple[Metric, ...]] = (
    _rds(
        "AvailabilityPercentage",
        Kind.GAUGE,
        (ROLE,),
        "target_availability_percentage",
        "Part of the period, in per cent, in which a target of this role was available.",
        labels=("role",),
        unit=Unit.PERCENT,
        statistic="Average",
    ),
    _rds("ClientConnections", Kind.GAUGE, _CLIENTS, "client_connections", "Clients that are logged in."),
    _rds(
        "ClientConnectionsClosed",
        Kind.COUNTER,
        _CLIENTS,
        "client_connections_closed_total",
        "Client connections that ended after their login.",
    ),
    _rds(
        "ClientConnectionsNoTLS",
        Kind.GAUGE,
        _CLIENTS,
        "client_connections_no_tls",
        "Clients that are logged in without TLS.",
    ),
    _rds(
        "ClientConnectionsReceived",
        Kind.COUNTER,
        _CLIENTS,
        "client_connections_received_total",
        "Connections that were accepted, whatever became of them; cancel requests among them.",
    ),
    _rds(
        "ClientConnectionsSetupFailedAuth",
        Kind.COUNTER,
        _CLIENTS,
        "client_connections_setup_failed_auth_total",
        "Logins that failed for a password, a token or TLS.",
    ),
    _rds(
        "ClientConnectionsSetupSucceeded",
        Kind.COUNTER,
        _CLIENTS,
        "client_connections_setup_succeeded_total",
        "Logins that succeeded.",
    ),
    _rds("ClientConnectionsTLS", Kind.GAUGE, _CLIENTS, "client_connections_tls", "Clients that are logged in by TLS."),
    _rds(
        "DatabaseConnectionRequests",
        Kind.COUNTER,
        _SERVERS,
        "database_connection_requests_total",
        "Attempts to open a server connection.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionRequestsWithTLS",
        Kind.COUNTER,
        _SERVERS,
        "database_connection_requests_with_tls_total",
        "Attempts to open a server connection by TLS.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnections",
        Kind.GAUGE,
        _SERVERS,
        "database_connections",
        "Server connections.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsBorrowLatency",
        Kind.DISTRIBUTION,
        _CLIENTS,
        "database_connections_borrow_latency_seconds",
        "How long a transaction waited for a server connection; 0 if one was free.",
        labels=_BY_DATABASE,
        unit=Unit.MICROSECONDS,
        statistic="Average",
    ),
    _rds(
        "DatabaseConnectionsCurrentlyBorrowed",
        Kind.GAUGE,
        _SERVERS,
        "database_connections_currently_borrowed",
        "Server connections that a client holds.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsCurrentlyInTransaction",
        Kind.GAUGE,
        _SERVERS,
        "database_connections_currently_in_transaction",
        "Server connections in a transaction.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsCurrentlySessionPinned",
        Kind.GAUGE,
        _SERVERS,
        "database_connections_currently_session_pinned",
        "Server connections that a client keeps for what it has left in its session.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsSetupFailed",
        Kind.COUNTER,
        _SERVERS,
        "database_connections_setup_failed_total",
        "Attempts to open a server connection that failed.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsSetupSucceeded",
        Kind.COUNTER,
        _SERVERS,
        "database_connections_setup_succeeded_total",
        "Server connections that were opened.",
        labels=_BY_TARGET,
    ),
    _rds(
        "DatabaseConnectionsWithTLS",
        Kind.GAUGE,
        _SERVERS,
        "database_connections_with_tls",
        "Server connections by TLS.",
        labels=_BY_TARGET,
    ),
    _rds(
        "MaxDatabaseConnectionsAllowed",
        Kind.GAUGE,
        _SERVERS,
        "max_database_connections_allowed",
        "Server connections that this proxy may open, by max_connections_percent of what the server allows.",
        labels=("target",),
    ),
    _rds(
        "QueryDatabaseResponseLatency",
        Kind.DISTRIBUTION,
        (PROXY, ENDPOINT, TARGET, ROLE),
        "query_database_response_latency_seconds",
        "From sending a request to the server until all of its answer has come.",
        labels=_BY_TARGET,
        unit=Unit.MICROSECONDS,
        statistic="Average",
    ),
    _rds(
        "QueryRequests",
        Kind.COUNTER,
        _CLIENTS,
        "query_requests_total",
        "Requests: simple queries, each with all of its statements, and extended ones up to a Sync.",
        labels=_BY_DATABASE,
    ),
    _rds(
        "QueryRequestsNoTLS",
        Kind.COUNTER,
        _CLIENTS,
        "query_requests_no_tls_total",
        "Requests of clients without TLS.",
        labels=_BY_DATABASE,
    ),
    _rds(
        "QueryRequestsTLS",
        Kind.COUNTER,
        _CLIENTS,
        "query_requests_tls_total",
        "Requests of clients with TLS.",
        labels=_BY_DATABASE,
    ),
    _rds(
        "QueryResponseLatency",
        Kind.DISTRIBUTION,
        _CLIENTS,
        "query_response_latency_seconds",
        "From getting a request until all of its answer has come, the wait for a server connection included.",
        labels=_BY_DATABASE,
        unit=Unit.MICROSECONDS,
        statistic="Average",
    ),
    # Tidegate's own.
    _own(
        "TransactionLatency",
        Kind.DISTRIBUTION,
        (PROXY,),
        "transaction_latency_seconds",
        "How long a transaction held its server connection, the client's own pauses included.",
        labels=_BY_DATABASE,
        unit=Unit.MICROSECONDS,
        statistic="p99",
    ),
    _own("Transactions", Kind.COUNTER, (PROXY,), "transactions_total", "Transactions that ended.", labels=_BY_DATABASE),
    _own(
        "QueryErrors",
        Kind.COUNTER,
        (PROXY,),
        "query_errors_total",
        "Errors that servers answered to clients' statements.",
        labels=_BY_DATABASE,
    ),
    _own(
        "BorrowQueueLength",
        Kind.GAUGE,
        (PROXY, TARGET),
        "borrow_queue_length",
        "Clients that wait for a server connection.",
        labels=_BY_TARGET,
        statistic="Maximum",
    ),
    _own(
        "BorrowLongestWait",
        Kind.GAUGE,
        (PROXY, TARGET),
        "borrow_longest_wait_seconds",
        "How long the client that has waited longest for a server connection has been waiting; 0 if none waits.",
        labels=_BY_TARGET,
        unit=Unit.SECONDS,
        statistic="Maximum",
    ),
    _own(
        "BorrowTimeouts",
        Kind.COUNTER,
        (PROXY, TARGET),
        "borrow_timeouts_total",
        "Transactions that got no server connection in time.",
        labels=_BY_TARGET,
    ),
    _own(
        "DeadlineCancels",
        Kind.COUNTER,
        (PROXY, TARGET),
        "deadline_cancels_total",
        "Transactions that were ended at the deadline that their client had set, those that still waited included.",
        labels=_BY_TARGET,
    ),
    _own(
        "Failovers",
        Kind.COUNTER,
        (PROXY,),
        "failovers_total",
        "How often another target than before was found to be the writer.",
    ),
    _own(
        "SessionPins",
        Kind.COUNTER,
        (PROXY, REASON),
        "session_pins_total",
        "How often a client was pinned to its server connection, by reason.",
        labels=("database", "reason"),
    ),
    _own(
        "BytesReceived",
        Kind.COUNTER,
        (PROXY,),
        "bytes_received_total",
        "Bytes from clients, without TLS's own.",
        labels=_BY_DATABASE,
        unit=Unit.BYTES,
    ),
    _own(
        "BytesSent",
        Kind.COUNTER,
        (PROXY,),
        "bytes_sent_total",
        "Bytes to clients, without TLS's own.",
        labels=_BY_DATABASE,
        unit=Unit.BYTES,
    ),
    _own(
        "ClientConnectionsSetupFailedOther",
        Kind.COUNTER,
        (PROXY,),
        "client_connections_setup_failed_other_total",
        "Logins that failed for another reason: limits, time, no such database, the server's own refusal.",
    ),
    _own(
        "IAMVerifications",
        Kind.COUNTER,
        (PROXY, RESULT),
        "iam_verifications_total",
        "Logins by IAM, by their result.",
        labels=("result",),
    ),
    _own(
        "STSRequests",
        Kind.COUNTER,
        (PROXY, RESULT),
        "sts_requests_total",
        "Requests to STS, by HTTP status or kind of failure: timeout, connection, cancelled.",
        labels=("result",),
    ),
    _own(
        "STSLatency",
        Kind.DISTRIBUTION,
        (PROXY,),
        "sts_latency_seconds",
        "How long a request to STS took, failed ones included.",
        unit=Unit.MICROSECONDS,
        statistic="p99",
    ),
    _own(
        "FleetMembers",
        Kind.GAUGE,
        (TARGET,),
        "fleet_members",
        "Proxy processes that share the server's connections, as this one sees them.",
        labels=("target",),
        statistic="Maximum",
    ),
    _own(
        "FleetBudget",
        Kind.GAUGE,
        (TARGET,),
        "fleet_budget",
        "Server connections that all members together may have, control connections included.",
        labels=("target",),
        statistic="Maximum",
    ),
    _own(
        "FleetShare",
        Kind.GAUGE,
        (TARGET,),
        "fleet_share",
        "Server connections that this member may have at present; none while it has no control connection.",
        labels=("target",),
    ),
    _own(
        "FleetOtherConnections",
        Kind.GAUGE,
        (TARGET,),
        "fleet_other_connections",
        "Connections to the server that are no member's: other users', and a dead member's while they still work.",
        labels=("target",),
        statistic="Maximum",
    ),
    _own(
        "CertificateDaysLeft",
        Kind.GAUGE,
        (PROXY,),
        "certificate_days_left",
        "Days until the certificate that clients are shown, or one of its chain, expires; below 0 when it has.",
        statistic="Minimum",
    ),
    _own(
        "CPUUtilization",
        Kind.GAUGE,
        (PROXY,),
        "cpu_utilization_percent",
        "Processor time of the process in the last period, in per cent of one processor.",
        unit=Unit.PERCENT,
        statistic="Maximum",
    ),
    _own(
        "MemoryUsed",
        Kind.GAUGE,
        (PROXY,),
        "memory_used_bytes",
        "Resident memory of the process.",
        unit=Unit.BYTES,
        statistic="Maximum",
    ),
    _own(
        "EventLoopLag",
        Kind.DISTRIBUTION,
        (PROXY,),
        "event_loop_lag_seconds",
        "How much later than due the event loop came to what it had to do, tried ten times a second.",
        unit=Unit.MICROSECONDS,
        statistic="p99",
    ),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
