"""(e) Writing: many more clients than server connections, each with a few read-write transactions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tidegate_load.bench.endpoints import Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.pgbench import Transaction, arguments, read_log
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import BenchError, Program, Stage
from tidegate_load.bench.stats import percentile

TIMEOUT = 300.0
"""Seconds that all transactions together may take."""


class Writes(Scenario):
    """pgbench --skip-some-updates: BEGIN, UPDATE, SELECT, INSERT, COMMIT."""

    key = "e"
    name = "writes"
    title = "Read-write transactions of many clients over few server connections"
    metrics = (
        Metric("total", "all transactions", "s", digits=2),
        Metric("p99", "latency, p99", "ms", digits=0),
        Metric("fairness", "slowest client to the median", "", digits=2, ratio=False),
        Metric("cpu", "pooler's CPU per transaction", "µs", digits=0),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        setup = Setup(sizes.writers, pool_size=sizes.pool_size)
        return [Case(f"{sizes.writers} clients of {sizes.transactions} transactions", setup, fresh=True)]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 2.0 + sizes.writers * sizes.transactions / 2000

    def open_files(self, sizes: Sizes) -> int:
        return sizes.writers

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        folder = stage.new_folder("pgbench")
        command = arguments(stage, folder, mode="simple", clients=sizes.writers)
        command += ["--skip-some-updates", "--transactions", str(sizes.transactions)]
        before = running.usage()
        with Program(command, running.parameters) as program:
            program.finish(stage.interruption, TIMEOUT)
        used = running.usage() - before
        values = judge(read_log(folder))
        if running.is_pooler:
            values["cpu"] = used.cpu / (sizes.writers * sizes.transactions) * 1e6
        return values


def judge(log: Sequence[Transaction]) -> dict[str, float]:
    """Seconds from the first transaction's start to the last one's end, p99 in ms, slowest client ÷ median client.

    Raises: BenchError for an empty log.
    """
    if not log:
        raise BenchError("pgbench logged no transaction")
    start = min(each.end - each.latency / 1e3 for each in log)
    # Latencies add up to what a client took: it waits for nothing else.
    clients: dict[int, float] = {}
    for each in log:
        clients[each.client] = clients.get(each.client, 0.0) + each.latency
    return {
        "total": max(each.end for each in log) - start,
        "p99": percentile(sorted(each.latency for each in log), 0.99),
        "fairness": max(clients.values()) / statistics.median(clients.values()),
    }
