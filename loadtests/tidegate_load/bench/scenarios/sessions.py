"""(g) Session state: what carrying it costs, against a pool that keeps whole sessions."""

from __future__ import annotations

from tidegate_load.bench.endpoints import Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.pgbench import measure_window, warm_up, window_values
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import Stage

CLIENTS = 16
"""Not more than server connections: a session pool serves no more."""

_SELECT = "\\set id random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :id;\n"
_ONCE = "\\if :first\n%s\n\\set first 0\n\\endif\n" + _SELECT

SCRIPTS = {
    "plain": _SELECT,
    "SET once, then carried": _ONCE % "SET work_mem TO '8MB';",
    "SET in each transaction": "BEGIN;\nSET work_mem TO '8MB';\n" + _SELECT + "COMMIT;\n",
    "prepared": _SELECT,
    "pinned by a temporary table": _ONCE % "CREATE TEMPORARY TABLE mine (id int);",
}
"""What each client runs again and again, as a script of pgbench; `first` is 1 before the first time."""


class Sessions(Scenario):
    """Tidegate in transaction mode against PgBouncer as a session pool, where these statements do work."""

    key = "g"
    name = "sessions"
    title = "Session state: transaction pool of Tidegate against session pool of PgBouncer"
    metrics = (
        Metric("cpu", "pooler's CPU per transaction", "µs"),
        Metric("throughput", "throughput", "transactions/s", digits=0, better="higher"),
        Metric("p50", "latency, p50", "ms", digits=2),
        Metric("p99", "latency, p99", "ms", digits=2),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        clients = min(CLIENTS, sizes.pool_size, *sizes.clients)
        setup = Setup(clients, sessions=True, prepared=False, pool_size=sizes.pool_size)
        return [Case(f"{name}, {clients} clients", setup, {"script": name}) for name in SCRIPTS]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return sizes.seconds + 1.5

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        name = str(case.what["script"])
        file = stage.new_folder("script") / "script.sql"
        file.write_text(SCRIPTS[name])
        window = measure_window(
            stage,
            running,
            mode="prepared" if name == "prepared" else "simple",
            clients=case.setup.clients,
            seconds=sizes.seconds,
            script=["--file", file, "--define", "first=1"],
        )
        values = window_values(window, running)
        values.pop("kernel", None)
        return values

    def warm_up(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> None:
        warm_up(stage, running, "simple", case.setup.clients)
