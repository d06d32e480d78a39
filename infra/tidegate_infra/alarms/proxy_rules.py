"""Alarms on what the proxy itself measures."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from tidegate_infra.alarms.rule import Rule
from tidegate_infra.alarms.thresholds import Thresholds
from tidegate_infra.metrics import ProxyMetrics

MICROSECONDS = 1_000_000
WRITER = "READ_WRITE"


def share(metrics: ProxyMetrics, part: str, whole: str, label: str) -> cloudwatch.MathExpression:
    """`part` of `whole`, in percent, over all tasks."""
    return cloudwatch.MathExpression(
        expression="100 * part / whole",
        using_metrics={"part": metrics.metric(part), "whole": metrics.metric(whole)},
        label=label,
        period=Duration.minutes(1),
    )


def proxy_rules(metrics: ProxyMetrics, thresholds: Thresholds) -> list[Rule]:
    """The rules, in the order in which a query would meet them."""
    return [
        Rule(
            "AuthenticationFailures",
            "authentication-failures",
            "Many logins fail: a wrong password, a token that no rule fits, or TLS.",
            "Find user and address in the logs; look for a role that was replaced, or a secret changed by hand.",
            metrics.metric("ClientConnectionsSetupFailedAuth", period=Duration.minutes(5)),
            thresholds.authentication_failures,
        ),
        Rule(
            "ClientsWithoutTls",
            "clients-without-tls",
            "Clients are connected without TLS: their queries can be read on the way.",
            "Find them in SHOW CLIENTS, give them sslmode=verify-full, then set require_tls.",
            metrics.metric("ClientConnectionsNoTLS"),
            thresholds.clients_without_tls,
        ),
        # No data is no alarm: a proxy without TLS has no certificate.
        Rule(
            "CertificateExpires",
            "certificate-expires",
            "The proxy's certificate expires soon: from then on no client that verifies it can connect.",
            "Put a new one into its secret; who knows only the old authority must be given the new one first.",
            metrics.metric("CertificateDaysLeft", "Minimum", period=Duration.hours(1)),
            thresholds.certificate_days,
            below=True,
        ),
        Rule(
            "ClientsWaiting",
            "clients-waiting",
            "Clients have been waiting for a server connection for longer than a minute.",
            "Look for long transactions in SHOW SERVERS and pg_stat_activity; end them, or allow more connections.",
            metrics.metric("BorrowLongestWait", "Maximum"),
            thresholds.longest_wait_seconds,
            urgent=True,
        ),
        Rule(
            "BorrowLatency",
            "borrow-latency",
            "One transaction in a hundred waits too long for a server connection.",
            "Compare with database latency: if that rose too, the database is slow; else raise pool_size.",
            metrics.metric("DatabaseConnectionsBorrowLatency", "p99"),
            thresholds.borrow_latency_seconds * MICROSECONDS,
            periods=3,
            of=5,
        ),
        Rule(
            "BorrowTimeouts",
            "borrow-timeouts",
            "Transactions got no server connection in time and failed with SQLSTATE 53300.",
            "Look at the database first, then at long transactions and pins; last, raise the limits.",
            metrics.metric("BorrowTimeouts"),
            thresholds.borrow_timeouts,
            urgent=True,
        ),
        Rule(
            "ConnectionsNearLimit",
            "connections-near-limit",
            "The proxy has nearly all the server connections that it may open.",
            "If clients wait as well, raise max_connections_percent or take a larger instance; if not, let it be.",
            share(metrics, "DatabaseConnections", "MaxDatabaseConnectionsAllowed", "Connections, percent of allowed"),
            thresholds.connections_percent,
            periods=5,
        ),
        Rule(
            "PinnedConnections",
            "pinned-connections",
            "Many server connections belong to one client each, for what it has left in its session.",
            "SHOW PINS names the reasons: temporary tables, LISTEN, advisory locks; end them in the transaction.",
            share(
                metrics,
                "DatabaseConnectionsCurrentlySessionPinned",
                "DatabaseConnections",
                "Pinned, percent of connections",
            ),
            thresholds.pinned_percent,
            periods=10,
        ),
        # No data is no alarm: a proxy that nobody has logged in to yet may not know its target, and where no task is
        # left to measure anything, MissingTasks rings.
        Rule(
            "TargetUnavailable",
            "target-unavailable",
            "The database that takes writes was there, and can no longer be reached.",
            "Look at SHOW TARGETS for the reason, then at the database's own events: a failover ends by itself.",
            metrics.of_role("AvailabilityPercentage", WRITER, "Average"),
            thresholds.availability_percent,
            below=True,
            periods=3,
            urgent=True,
        ),
        Rule(
            "EventLoopLag",
            "event-loop-lag",
            "The proxy comes late to what it has to do: a task has more work than one processor can do.",
            "Raise cpu or min_tasks; if CPU is low, look in the logs for what blocked it.",
            metrics.metric("EventLoopLag", "p99"),
            thresholds.event_loop_lag_seconds * MICROSECONDS,
            periods=3,
            of=5,
        ),
    ]
