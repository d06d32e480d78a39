"""(c) Thousands of idle clients: what each costs, and whether an active one notices them."""

from __future__ import annotations

import asyncio

import uvloop

from tidegate_load.bench.crowd import Crowd, need_no_errors
from tidegate_load.bench.endpoints import Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.pgbench import measure_window
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import Stage

_AT_ONCE = 100
_SETTLED = 0.5  # seconds after the last login


class Idle(Scenario):
    """One active client alone, then beside thousands that are logged in and do nothing."""

    key = "c"
    name = "idle"
    title = "Idle clients: memory of each (PSS), and one active client without and with them"
    metrics = (
        Metric("memory", "memory per idle client", "KB"),
        Metric("p50_alone", "p50 alone", "ms", digits=3),
        Metric("p50", "p50 beside them", "ms", digits=3),
        Metric("p99_alone", "p99 alone", "ms", digits=3),
        Metric("p99", "p99 beside them", "ms", digits=3),
        Metric("cpu", "CPU per query beside them", "µs"),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        return [
            Case(
                f"{'TLS' if tls else 'plain'}, {sizes.idle} idle clients",
                Setup(sizes.idle + 1, tls=tls, pool_size=sizes.pool_size),
                fresh=True,
                only_poolers=True,
            )
            for tls in (False, True)
        ]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 2 * (sizes.seconds + 1.5) + sizes.idle * (0.003 if case.setup.tls else 0.001)

    def open_files(self, sizes: Sizes) -> int:
        return sizes.idle

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        alone = measure_window(stage, running, mode="simple", clients=1, seconds=sizes.seconds)

        first_ones = min(_AT_ONCE, sizes.idle // 2)

        async def beside() -> dict[str, float]:
            async with (
                Crowd(stage, running.parameters, first_ones) as first,
                Crowd(stage, running.parameters, sizes.idle - first_ones) as crowd,
            ):
                # What the first logins allocate once and for all is not the others' cost.
                await first.connect()
                need_no_errors(first, "the first clients")
                before = running.memory()
                await crowd.connect(at_once=_AT_ONCE)
                need_no_errors(crowd, "idle clients")
                stage.interruption.wait(_SETTLED)
                memory = running.memory() - before
                window = measure_window(stage, running, mode="simple", clients=1, seconds=sizes.seconds)
                await asyncio.sleep(0)  # whoever was thrown out is noticed
                need_no_errors(crowd, "idle clients")
            return {
                "memory": memory / (sizes.idle - first_ones) / 1000,
                "p50": window.latency(0.5),
                "p99": window.latency(0.99),
                "cpu": window.microseconds(window.usage.cpu),
            }

        # The loop stands still while pgbench runs: the idle clients have nothing to do.
        return {"p50_alone": alone.latency(0.5), "p99_alone": alone.latency(0.99)} | uvloop.run(beside())
