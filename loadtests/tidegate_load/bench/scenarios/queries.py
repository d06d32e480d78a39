"""(a) Short queries: throughput, latency, and the pooler's CPU for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from tidegate_load.bench.endpoints import Endpoint, Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.pgbench import MODES, measure_window, warm_up, window_values
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import Stage

_PROCESSES = 2


class Queries(Scenario):
    """pgbench --select-only in each mode, plain and inside TLS."""

    key = "a"
    name = "queries"
    title = "Short queries (pgbench --select-only)"
    metrics = (
        Metric("cpu", "pooler's CPU per query", "µs"),
        Metric("kernel", "of it in the kernel", "µs"),
        Metric("throughput", "throughput", "queries/s", digits=0, better="higher"),
        Metric("p50", "latency, p50", "ms", digits=2),
        Metric("p99", "latency, p99", "ms", digits=2),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        each = [
            Case(
                f"{'TLS' if tls else 'plain'}, {mode}, {clients} clients",
                Setup(clients, tls=tls, prepared=mode == "prepared", pool_size=sizes.pool_size),
                {"mode": mode},
            )
            for tls, mode, clients in product((False, True), MODES, sizes.clients)
        ]
        reused = [
            Case(
                f"extended, statements reused, {clients} clients",
                Setup(clients, pool_size=sizes.pool_size, reuse=True),
                {"mode": "extended"},
            )
            for clients in sizes.clients
        ]
        shared = Case(
            f"{_PROCESSES} processes, simple, {max(sizes.clients)} connections",
            Setup(max(sizes.clients), pool_size=sizes.pool_size, processes=_PROCESSES),
            {"mode": "simple"},
            only_poolers=True,
        )
        return [*each, *reused, shared]

    def endpoints(self, present: Sequence[Endpoint], case: Case) -> list[Endpoint]:
        return [each for each in super().endpoints(present, case) if each.shares_port or case.setup.processes == 1]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return sizes.seconds + 1.5

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        clients = case.setup.clients
        window = measure_window(stage, running, mode=str(case.what["mode"]), clients=clients, seconds=sizes.seconds)
        return window_values(window, running)

    def warm_up(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> None:
        warm_up(stage, running, str(case.what["mode"]), case.setup.clients)
