"""When alarms ring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Each field's docstring says what rings above it; the defaults suit functions behind an API."""

    borrow_latency_seconds: float = 1
    """99th percentile of the wait for a server connection, in three of five minutes."""

    connections_percent: float = 90
    """Server connections, of those that the proxy may open, for five minutes."""

    longest_wait_seconds: float = 60
    """How long some client has been waiting for a server connection, looked at once a minute. Nobody waits for longer
    than `borrow_timeout`, two minutes by default."""

    borrow_timeouts: float = 0
    """Transactions that got no server connection in time, in a minute."""

    pinned_percent: float = 30
    """Server connections that one client keeps for its session, of all, for ten minutes."""

    clients_without_tls: float = 0
    """Clients that are logged in without TLS."""

    certificate_days: float = 14
    """Below it: days until the certificate that clients are shown expires. The default leaves time to hand out a new
    authority first, where there is one."""

    authentication_failures: float = 20
    """Logins that failed for a password, a token or TLS, in five minutes."""

    availability_percent: float = 99
    """Below it: the part of a minute in which the writer was available, for three minutes."""

    missing_task_minutes: int = 5
    """Minutes in a row with fewer healthy tasks than wanted; a deployment needs two or three. Without a load balancer,
    which tells healthy tasks from those that merely run: at most three minutes, of twice as many as are said here."""

    event_loop_lag_seconds: float = 0.1
    """99th percentile of the delay of the event loop, in three of five minutes."""

    memory_percent: float = 80
    """Of a task's memory, for five minutes."""

    failed_deployments: float = 0
    """Deployments that ECS gave up and rolled back."""
