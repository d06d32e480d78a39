"""What the runner knows of a scenario."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate_load.bench.endpoints import Endpoint, Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.stage import Stage


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the scenarios are.

    `seconds` of each window of steady load; `clients` of steady load, each number one case; `storm` clients that
    connect at once; `idle` clients; `out` and `into` megabytes moved; `writers` and the read-write transactions of
    each; `pool_size` server connections; `scale` of pgbench's tables, 100,000 rows each.
    """

    seconds: float = 3.0
    clients: tuple[int, ...] = (16, 64)
    storm: int = 500
    idle: int = 5000
    out: int = 1000
    into: int = 500
    writers: int = 500
    transactions: int = 20
    pool_size: int = 20
    scale: int = 10


QUICK = {
    "seconds": 1.0,
    "clients": (16,),
    "storm": 100,
    "idle": 500,
    "out": 100,
    "into": 50,
    "writers": 100,
    "transactions": 5,
    "scale": 1,
}
"""Sizes for a first impression."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question that every endpoint answers: `fresh`, with new processes for each answer."""

    name: str
    setup: Setup
    what: dict[str, object] = field(default_factory=dict)
    fresh: bool = False
    only_poolers: bool = False


class Scenario(abc.ABC):
    """A group of cases with the same metrics."""

    key: str
    name: str
    title: str
    metrics: Sequence[Metric]

    @abc.abstractmethod
    def cases(self, sizes: Sizes) -> list[Case]:
        """The cases, each to be measured in every round at every endpoint."""

    @abc.abstractmethod
    def estimate(self, sizes: Sizes, case: Case) -> float:
        """About how many seconds one measurement takes."""

    @abc.abstractmethod
    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        """Measure once; values by key of the metric. Raises: BenchError."""

    def endpoints(self, present: Sequence[Endpoint], case: Case) -> list[Endpoint]:
        """Those endpoints that this case makes sense for: PostgreSQL's wheel comes without TLS."""
        return [endpoint for endpoint in present if endpoint.pooler or not (case.only_poolers or case.setup.tls)]

    def own_endpoints(self) -> list[Endpoint]:
        """What this scenario compares in place of the run's endpoints; none by default."""
        return []

    def warm_up(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> None:
        """Once per endpoint that is not started anew for each measurement; nothing by default. Raises: BenchError."""
        return

    def open_files(self, sizes: Sizes) -> int:
        """Most connections that this scenario's client opens."""
        return max(sizes.clients)
