"""A proxy's metrics as its surroundings get them: by HTTP, and on standard output for CloudWatch."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.proxy.metrics.test_emf import series
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually, proxy_config

from tidegate_proxy.metrics.registry import METRICS


def address(proxy: ProxyProcess) -> str:
    found = re.search(r"HTTP .* is on (\S+) port (\d+)", proxy.log)
    assert found, proxy.log
    return f"http://{found[1]}:{found[2]}"


def get(proxy: ProxyProcess, path: str) -> tuple[int, str]:
    """Status and text."""
    try:
        with urllib.request.urlopen(address(proxy) + path, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(proxy: ProxyProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics by name and labels."""
    status, text = get(proxy, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_gets_every_metric_and_true_values(start_proxy: StartProxy, database: Database) -> None:
    proxy = start_proxy(http_port=0, default_pool_size=1)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute("SELECT 1")
        with one.transaction():
            one.execute("SELECT pg_sleep(0.2)")
            waiter = threading.Thread(target=two.execute, args=["SELECT 1"])
            waiter.start()
            by_database = ("database", database.name)
            labels = (by_database, ("target", f"{database.server.host}:{database.server.port}"))
            eventually(lambda: samples(proxy)[("tidegate_borrow_queue_length", labels)] == 1)
            eventually(lambda: samples(proxy)[("tidegate_borrow_longest_wait_seconds", labels)] >= 0.01)
            found = samples(proxy)
            assert found[("tidegate_client_connections", ())] == 2
            assert found[("tidegate_database_connections", labels)] == 1
            assert found[("tidegate_database_connections_currently_borrowed", labels)] == 1
            assert found[("tidegate_database_connections_currently_in_transaction", labels)] == 1
        waiter.join()
        assert samples(proxy)[("tidegate_borrow_longest_wait_seconds", labels)] == 0
        with pytest.raises(psycopg.errors.UndefinedTable):
            one.execute("SELECT * FROM nothing")
        found = samples(proxy)
        assert found[("tidegate_transactions_total", (by_database,))] == 4
        assert found[("tidegate_query_requests_total", (by_database,))] == 6
        assert found[("tidegate_query_requests_no_tls_total", (by_database,))] == 6
        assert found[("tidegate_query_errors_total", (by_database,))] == 1
        borrows = "tidegate_database_connections_borrow_latency_seconds"
        assert found[(f"{borrows}_count", (by_database,))] == 4
        assert found[(f"{borrows}_bucket", (by_database, ("le", "0.0001")))] == 3
        assert found[(f"{borrows}_sum", (by_database,))] > 0
        requests = "tidegate_query_database_response_latency_seconds"
        assert found[(f"{requests}_count", labels)] == 6
        assert found[(f"{requests}_sum", labels)] >= 0.2
        assert found[("tidegate_transaction_latency_seconds_count", (by_database,))] == 4
    _, text = get(proxy, "/metrics")
    for metric in METRICS:
        assert f"# TYPE {metric.prometheus.removesuffix('_total')}" in text


def test_ready_when_a_login_is_possible_and_not_while_draining(start_proxy: StartProxy) -> None:
    proxy = start_proxy(http_port=0)
    assert get(proxy, "/healthz") == (200, "ok\n")
    # Nobody has come yet: it logs in to see.
    assert get(proxy, "/readyz") == (200, "ok\n")
    with proxy.connect() as one:
        one.execute("BEGIN")
        proxy.process.terminate()
        eventually(lambda: get(proxy, "/readyz") == (503, "draining\n"))
        assert get(proxy, "/healthz") == (200, "ok\n")
        one.execute("COMMIT")
    assert proxy.process.wait(30) == 0


def test_not_ready_without_a_target(start_proxy: StartProxy) -> None:
    proxy = start_proxy(http_port=0, check_targets=False, database_settings={"dbname": "not there"})
    status, text = get(proxy, "/readyz")
    assert (status, text) == (503, "no login to a target is possible\n")
    assert get(proxy, "/healthz")[0] == 200


def test_the_http_port_must_be_free(start_proxy: StartProxy) -> None:
    taken = int(address(start_proxy(http_port=0)).rpartition(":")[2])
    with pytest.raises(AssertionError, match=r"http_port: cannot listen on 127\.0\.0\.1 port"):
        start_proxy(http_port=taken)


def test_http_listens_where_it_is_told_to(start_proxy: StartProxy) -> None:
    proxy = start_proxy(http_port=0, http_host="127.0.0.2")
    assert address(proxy).rpartition(":")[0].removeprefix("http://") == "127.0.0.2"
    assert get(proxy, "/healthz") == (200, "ok\n")


def test_cloudwatch_metrics_go_into_the_namespace_that_is_named(start_proxy: StartProxy) -> None:
    proxy = start_proxy(cloudwatch_metrics=True, cloudwatch_period=0.5, cloudwatch_namespace="Orders/Proxy")

    def lines() -> list[str]:
        return [line for line in proxy.log.splitlines() if line.startswith('{"_aws"')]

    eventually(lines)
    assert proxy.stop() == 0
    directives = [each for line in lines() for each in json.loads(line)["_aws"]["CloudWatchMetrics"]]
    assert {each["Namespace"] for each in directives} == {"Orders/Proxy"}


def _cloudwatch(proxy: ProxyProcess) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]:
    return series([line for line in proxy.log.splitlines() if line.startswith('{"_aws"')])


def test_cloudwatch_gets_every_metric_of_rds_proxy_with_all_of_its_dimensions(
    start_proxy: StartProxy, database: Database
) -> None:
    proxy = start_proxy(cloudwatch_metrics=True, cloudwatch_period=0.5, proxy_name="orders", endpoint_name="rw")
    whole = (("ProxyName", "orders"),)
    pinned = ("DatabaseConnectionsCurrentlySessionPinned", whole)
    with proxy.connect() as one:
        one.execute("SELECT pg_sleep(0.1)")
        one.execute("LISTEN c")
        eventually(lambda: 1 in _cloudwatch(proxy).get(pinned, []))
        eventually(lambda: any(name == "AvailabilityPercentage" for name, _ in _cloudwatch(proxy)))
    assert proxy.stop() == 0
    found = _cloudwatch(proxy)
    sets = {(name, tuple(key for key, _ in dimensions)) for name, dimensions in found}
    for metric in METRICS:
        if metric.of_rds:
            assert {(metric.name, dimensions) for dimensions in metric.dimensions} <= sets
    assert sum(found[("QueryRequests", whole)]) == 2
    assert sum(found[("ClientConnectionsClosed", whole)]) == 1
    assert sum(found[("SessionPins", (*whole, ("Reason", "listen")))]) == 1
    assert max(found[("QueryDatabaseResponseLatency", whole)]) >= 100_000
    assert len(found[("QueryDatabaseResponseLatency", whole)]) == 2
    target = f"{database.server.host}:{database.server.port}"
    assert (
        sum(found[("DatabaseConnectionsSetupSucceeded", (*whole, ("TargetGroup", "default"), ("Target", target)))]) == 1
    )
    assert (
        max(found[("MaxDatabaseConnectionsAllowed", whole)]) == 90
    )  # of 100, by the default of max_connections_percent


def test_nothing_is_written_on_standard_output_unless_asked_for(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    with proxy.connect() as one:
        one.execute("SELECT 1")
    assert proxy.stop() == 0
    assert "_aws" not in proxy.log


def test_nobody_who_reads_the_metrics_ends_neither_them_nor_the_proxy(tmp_path: Path, database: Database) -> None:
    reading, writing = os.pipe()
    try:
        config = proxy_config(database, {"cloudwatch_metrics": True, "cloudwatch_period": 0.2})
        proxy = ProxyProcess(tmp_path, database, config, stdout=writing)
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.metrics.writer")
        proxy.wait_until_listening()
        assert os.read(reading, 65_536)
    finally:
        os.close(reading)
        os.close(writing)
    eventually(lambda: proxy.log.count("cannot be written on standard output: Broken pipe") >= 2)
    assert proxy.stop() == 0
    proxy.close()
