"""All values at one moment: counters since the beginning, gauges as they are now."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate_proxy.core.statistics import Statistics
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.metrics.histogram import summed
from tidegate_proxy.metrics.target_health import connections_allowed, target_health
from tidegate_proxy.targets.health import TargetRole

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.proxy import Proxy

_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Distribution:
    """How often each duration occurred (see `core.statistics`), and the sum of all in seconds."""

    counts: list[int]
    total: float


@dataclass(frozen=True)
class Reading:
    """One value of one metric.

    `labels` are those of its `Metric`, and what else its dimensions need: `target` and `role`.
    """

    name: str
    labels: dict[str, str]
    value: float | Distribution


def read(proxy: Proxy) -> list[Reading]:
    """Every value of every metric, as of now."""
    return [*_of_clients(proxy), *_of_pools(proxy), *_of_fleet(proxy), *_of_identities(proxy), *_of_process(proxy)]


def _of_clients(proxy: Proxy) -> Iterator[Reading]:
    counts = proxy.counts
    tls = sum(client.statistics is proxy.pool_of(client).counts.tls for client in proxy.clients)
    total = len(list(proxy.clients))
    yield Reading("ClientConnections", {}, total)
    yield Reading("ClientConnectionsTLS", {}, tls)
    yield Reading("ClientConnectionsNoTLS", {}, total - tls)
    yield Reading("ClientConnectionsReceived", {}, counts.received)
    yield Reading("ClientConnectionsSetupSucceeded", {}, counts.accepted)
    yield Reading("ClientConnectionsSetupFailedAuth", {}, counts.refused)
    yield Reading("ClientConnectionsSetupFailedOther", {}, counts.failed)
    yield Reading("ClientConnectionsClosed", {}, counts.closed)


def _of_pools(proxy: Proxy) -> Iterator[Reading]:
    roles = {f"{health.host}:{health.port}": health.role for health in target_health(proxy)}
    servers: dict[tuple[str, str], list[ServerConnection]] = {}
    waiters: Counter[tuple[str, str]] = Counter()
    longest: dict[tuple[str, str], float] = {}
    now = time.monotonic()
    for pool in proxy.pools:
        waiters[pool.database, pool.target] += pool.waiters
        if (since := pool.waits_since) is not None:
            waited = max(now - since, longest.get((pool.database, pool.target), 0))
            longest[pool.database, pool.target] = waited
        for server in pool.servers:
            servers.setdefault((pool.database, pool.target_of(server)), []).append(server)
    counted = proxy.counts.by_database_and_target()
    for database, target in counted.keys() | servers.keys():
        labels = {"database": database, "target": target, "role": roles.get(target, TargetRole.UNKNOWN).value}
        yield from _counted(counted.get((database, target), PoolCounts()), labels)
        yield from _present(servers.get((database, target), []), labels)
        yield Reading("BorrowQueueLength", labels, waiters[database, target])
        yield Reading("BorrowLongestWait", labels, longest.get((database, target), 0))
    for target, most in connections_allowed(proxy).items():
        labels = {"target": target, "role": roles.get(target, TargetRole.UNKNOWN).value}
        yield Reading("MaxDatabaseConnectionsAllowed", labels, most)
    yield Reading("Failovers", {}, proxy.monitor.availability.failovers)
    for role, percentage in proxy.monitor.availability.percentages().items():
        yield Reading("AvailabilityPercentage", {"role": role}, percentage)


def _counted(counts: PoolCounts, labels: dict[str, str]) -> Iterator[Reading]:
    clients = counts.clients
    yield Reading("DatabaseConnectionRequests", labels, counts.servers_requested)
    yield Reading("DatabaseConnectionRequestsWithTLS", labels, counts.servers_requested_tls)
    yield Reading("DatabaseConnectionsSetupSucceeded", labels, counts.servers_opened)
    yield Reading("DatabaseConnectionsSetupFailed", labels, counts.servers_failed)
    yield Reading("BorrowTimeouts", labels, counts.borrow_timeouts)
    yield Reading("DeadlineCancels", labels, counts.deadline_cancels)
    yield Reading("QueryRequests", labels, clients.requests)
    yield Reading("QueryRequestsTLS", labels, counts.tls.requests)
    yield Reading("QueryRequestsNoTLS", labels, counts.plain.requests)
    yield Reading("Transactions", labels, clients.transactions)
    yield Reading("QueryErrors", labels, clients.errors)
    yield Reading("BytesReceived", labels, clients.received)
    yield Reading("BytesSent", labels, clients.sent)
    for name, distribution in distributions(clients).items():
        yield Reading(name, labels, distribution)
    for reason, count in counts.pins.items():
        yield Reading("SessionPins", labels | {"reason": reason}, count)


def distributions(clients: Statistics) -> dict[str, Distribution]:
    """The distributions among the metrics, by their names."""
    at_once = [clients.assignments - clients.waited]
    single = summed(clients.alone, clients.late)
    return {
        "DatabaseConnectionsBorrowLatency": Distribution(summed(clients.waits, at_once), clients.wait_time),
        "QueryDatabaseResponseLatency": Distribution(summed(single, clients.served), clients.request_time),
        "QueryResponseLatency": Distribution(
            summed(clients.alone, clients.responded), clients.request_time + clients.wait_time
        ),
        "TransactionLatency": Distribution(summed(single, clients.whole), clients.transaction_time),
    }


def _present(servers: list[ServerConnection], labels: dict[str, str]) -> Iterator[Reading]:
    held = [server for server in servers if server.client is not None]
    yield Reading("DatabaseConnections", labels, len(servers))
    yield Reading(
        "DatabaseConnectionsWithTLS",
        labels,
        sum(server.transport.get_extra_info("ssl_object") is not None for server in servers),
    )
    yield Reading("DatabaseConnectionsCurrentlyBorrowed", labels, len(held))
    yield Reading("DatabaseConnectionsCurrentlyInTransaction", labels, sum(server.began > 0 for server in held))
    yield Reading(
        "DatabaseConnectionsCurrentlySessionPinned",
        labels,
        sum(server.client is not None and bool(server.client.session.pins) for server in held),
    )


def _of_fleet(proxy: Proxy) -> Iterator[Reading]:
    for membership in proxy.fleet.memberships:
        view = membership.view
        if view is None or membership.limit.alone:
            continue
        labels = {"target": membership.target}
        yield Reading("FleetMembers", labels, len(view.members))
        yield Reading("FleetBudget", labels, view.budget)
        yield Reading("FleetShare", labels, 0 if membership.limit.frozen else membership.limit.most or 0)
        yield Reading("FleetOtherConnections", labels, membership.others)


def _of_identities(proxy: Proxy) -> Iterator[Reading]:
    if proxy.iam is None:
        return
    for result, count in proxy.iam.results.items():
        yield Reading("IAMVerifications", {"result": str(result)}, count)
    if proxy.iam.verifier is not None:
        sts = proxy.iam.verifier.sts
        for outcome, count in sts.requests.items():
            yield Reading("STSRequests", {"result": outcome}, count)
        yield Reading("STSLatency", {}, Distribution(list(sts.latencies), sts.seconds))


def _of_process(proxy: Proxy) -> Iterator[Reading]:
    yield Reading("CPUUtilization", {}, proxy.monitor.vitals.cpu_percent)
    yield Reading("MemoryUsed", {}, resident_memory())
    if (days := proxy.certificates.days_left) is not None:
        yield Reading("CertificateDaysLeft", {}, days)
    yield Reading("EventLoopLag", {}, Distribution(list(proxy.monitor.vitals.lags), proxy.monitor.vitals.lag))


def resident_memory() -> int:
    """Bytes of this process's memory that are in RAM."""
    return int(_STATM.read_text().split()[1]) * _PAGE


def now_in_milliseconds() -> int:
    """Unix time as CloudWatch wants it."""
    return round(time.time() * 1000)
