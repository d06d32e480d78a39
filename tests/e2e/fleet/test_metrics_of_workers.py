"""Metrics of several workers: one port that tells of all, and lines for CloudWatch that nobody else writes into."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.fleet.conftest import BUDGET, PERCENT, StartMember
from tests.e2e.fleet.test_workers import TIMEOUT, listening, workers_of
from tests.proxy.metrics.test_emf import series
from tests.proxy.metrics.test_served import get
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually, proxy_config

from tidegate_proxy.fleet.planner import kept_back

CLIENTS = 12


def by_worker(proxy: ProxyProcess, name: str) -> dict[str, float]:
    """The values of a metric, whatever its other labels are."""
    status, text = get(proxy, "/metrics")
    assert status == 200
    return {
        sample.labels["worker"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_one_port_tells_of_all_workers(start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=3, http_port=0)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
    assert get(proxy, "/healthz") == (200, "ok\n")
    assert get(proxy, "/readyz") == (200, "ok\n")
    with contextlib.ExitStack() as stack:
        for _ in range(CLIENTS):
            stack.enter_context(proxy.connect()).execute("SELECT 1")
        # Whoever answers, it is the same.
        for _ in range(6):
            assert sum(by_worker(proxy, "tidegate_client_connections").values()) == CLIENTS
            assert sum(by_worker(proxy, "tidegate_transactions_total").values()) == CLIENTS
            assert by_worker(proxy, "process_start_time_seconds").keys() == {"0", "1", "2"}
        eventually(lambda: set(by_worker(proxy, "tidegate_fleet_members").values()) == {3}, timeout=TIMEOUT)
        assert set(by_worker(proxy, "tidegate_fleet_budget").values()) == {BUDGET}
        shares = by_worker(proxy, "tidegate_fleet_share")
        assert shares.keys() == {"0", "1", "2"}
        assert 0 < sum(shares.values()) <= BUDGET - kept_back(3)
        assert by_worker(proxy, "tidegate_fleet_other_connections").keys() == {"0", "1", "2"}
    os.kill(workers_of(proxy)[1], signal.SIGKILL)
    eventually(lambda: listening(proxy) == 4, timeout=TIMEOUT)
    assert by_worker(proxy, "process_start_time_seconds").keys() == {"0", "1", "2"}


def test_the_http_port_of_workers_must_be_free(start_member: StartMember) -> None:
    taken = start_member(fleet=False)
    with pytest.raises(AssertionError, match=r"http_port: port \d+ of 127\.0\.0\.1 is in use"):
        start_member(fleet=False, workers=2, http_port=taken.port)


def test_lines_for_cloudwatch_are_whole_and_count_everything_once(database: Database, tmp_path: Path) -> None:
    settings = {"workers": 3, "cloudwatch_metrics": True, "cloudwatch_period": 0.1, "max_connections_percent": PERCENT}
    pipe, end = os.pipe()
    proxy = ProxyProcess(tmp_path, database, proxy_config(database, settings), stdout=end)
    os.close(end)
    try:
        # It takes less than what a worker has to say at once.
        fcntl(pipe, F_SETPIPE_SZ, 4096)
        eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
        proxy.wait_until_listening()
        for _ in range(CLIENTS):
            with proxy.connect() as conn:
                conn.execute("SELECT 1")
        parts: list[bytes] = []

        def read() -> None:
            while part := os.read(pipe, 65_536):
                parts.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        eventually(lambda: b'"FleetMembers": 3' in b"".join(parts), timeout=TIMEOUT)
        proxy.process.send_signal(signal.SIGTERM)
        reader.join(TIMEOUT)
        lines = b"".join(parts).decode().splitlines()
        assert all(json.loads(line)["_aws"] for line in lines)
        found = series(lines)
        whole = (("ProxyName", "tidegate"),)
        assert sum(found[("ClientConnectionsSetupSucceeded", whole)]) == CLIENTS
        assert sum(found[("QueryRequests", whole)]) == CLIENTS
        target = f"{database.server.host}:{database.server.port}"
        of_target = (*whole, ("TargetGroup", "default"), ("Target", target))
        assert max(found[("FleetMembers", of_target)]) == 3
        assert set(found[("FleetBudget", of_target)]) == {BUDGET}
    finally:
        os.close(pipe)
        proxy.close()
