"""(b) A storm: hundreds of clients connect at once, log in and want their first row."""

from __future__ import annotations

import time
from collections.abc import Sequence

import uvloop

from tidegate_load.bench.crowd import Crowd, need_no_errors
from tidegate_load.bench.endpoints import Endpoint, Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import USER, BenchError, Stage
from tidegate_load.bench.stats import percentile

_NEW, _CONNECTED = "new", "connected"


class Storm(Scenario):
    """All at once: with an empty pool, and right after every server connection was killed."""

    key = "b"
    name = "storm"
    title = "Storm: clients that all connect at once, log in and get their first row"
    metrics = (
        Metric("last", "last first row", "ms", digits=0),
        Metric("p99", "first row, p99", "ms", digits=0),
        Metric("cpu", "pooler's CPU per client", "ms", digits=2),
        Metric("servers", "server connections", "", digits=0, ratio=False),
        Metric("failures", "clients that failed", "", digits=0, ratio=False),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        count = sizes.storm

        def setup(tls: bool = False, iam: bool = False) -> Setup:
            # Twice as many: where the pool is filled first, others do that.
            return Setup(2 * count, tls=tls, pool_size=sizes.pool_size, iam=iam)

        return [
            Case(f"plain, SCRAM, {count} clients", setup(), fresh=True),
            Case(f"TLS, SCRAM, {count} clients", setup(tls=True), fresh=True),
            Case(f"TLS, IAM, {count} clients", setup(tls=True, iam=True), fresh=True, only_poolers=True),
            Case(
                f"servers killed, {count} connected clients",
                setup(),
                {"kill": _CONNECTED},
                fresh=True,
                only_poolers=True,
            ),
            Case(f"servers killed, {count} new clients", setup(), {"kill": _NEW}, fresh=True, only_poolers=True),
        ]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 0.5 + sizes.storm * (0.004 if case.setup.tls or case.what else 0.002)

    def endpoints(self, present: Sequence[Endpoint], case: Case) -> list[Endpoint]:
        return [each for each in super().endpoints(present, case) if each.knows_iam or not case.setup.iam]

    def open_files(self, sizes: Sizes) -> int:
        return 2 * sizes.storm

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        return uvloop.run(self._storm(stage, sizes.storm, case, running))

    async def _storm(self, stage: Stage, count: int, case: Case, running: Running) -> dict[str, float]:
        # Each with a token of its own, signed before the clock runs.
        tokens = stage.identities(case.setup.clients).tokens(count) if case.setup.iam else None
        async with (
            Crowd(stage, running.parameters, count, tokens) as crowd,
            Crowd(stage, running.parameters, count) as before,
        ):
            kill = case.what.get("kill")
            if kill is not None:
                # The pool is full before its connections are killed.
                filling = crowd if kill == _CONNECTED else before
                await filling.connect(at_once=50)
                need_no_errors(filling, "before the kill")
                await filling.query()
                need_no_errors(filling, "before the kill")
                _kill_servers(stage)
            used, start = running.usage(), time.monotonic()
            answered = await (crowd.query() if kill == _CONNECTED else crowd.storm())
            used = running.usage() - used
            if not answered:
                raise BenchError(f"all clients failed, the first with: {crowd.errors[0]}")
            values = {
                "last": (answered[-1] - start) * 1e3,
                "p99": (percentile(answered, 0.99) - start) * 1e3,
                "servers": float(_count_servers(stage)),
                "failures": float(len(crowd.errors)),
            }
            if running.is_pooler:
                values["cpu"] = used.cpu / count * 1e3
            return values


def _count_servers(stage: Stage) -> int:
    with stage.server.connect() as conn:
        # Without the control connections of the proxy.
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND application_name NOT LIKE 'tidegate %%'"
        row = conn.execute(query, [USER]).fetchone()
    assert row is not None
    return int(row[0])


def _kill_servers(stage: Stage) -> None:
    with stage.server.connect() as conn:
        # Wait for each to be gone: what is sent to one that is still about to end is in flight, and fails with it.
        wait = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s"
        conn.execute(wait, [USER])
