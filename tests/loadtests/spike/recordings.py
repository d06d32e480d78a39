"""Recordings made by hand, whose promises are all kept; tests break one at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tidegate_load.spike.outcomes import OK
from tidegate_load.spike.promises import DIRECT, LAYER, PROXY
from tidegate_load.spike.recording import Accounting, ConnectionSample, Invocation, Recording, ServiceSample

PEAK = 10
ROUNDS = 3
POOL_SIZE = 4
MAX_CONNECTIONS = 6
START = 1_700_000_000.0


def invocations(failing: int, kind: str = "too many clients already") -> list[Invocation]:
    """PEAK callers, ROUNDS invocations each, one second long; the first `failing` callers fail every time."""
    return [
        Invocation(
            time=START + round_number + caller * 0.001,
            latency_ms=990.0 + caller,
            outcome=kind if caller < failing else OK,
            cold_start=round_number == 0,
            committed=caller >= failing,
            id=caller + 1,
        )
        for round_number in range(ROUNDS)
        for caller in range(PEAK)
    ]


def recording(name: str, title: str, failing: int, connections: int) -> Recording:
    """One run, with `connections` of the function's and one of the sampler's."""
    made = invocations(failing)
    parameters: dict[str, Any] = {"peak": PEAK, "min_invocations": PEAK * ROUNDS, "pool_size": POOL_SIZE}
    by_owner = {"counter/function": connections, "postgres/tidegate-spike": 1}
    return Recording(
        name,
        title,
        parameters,
        invocations=made,
        connections=[ConnectionSample(START + step / 2, connections + 1, by_owner) for step in range(6)],
        environments=[ServiceSample(START + step / 2, PEAK, PEAK - 1) for step in range(6)],
        max_connections=MAX_CONNECTIONS,
        function_role="counter",
        service={"peak_environments": PEAK},
        cpu_seconds={"locust": 1.5},
        accounting=Accounting.compare(Counter(each.id for each in made if each.committed), made),
    )


def demo() -> dict[str, Recording]:
    """The three runs of a demo that keeps its promises."""
    return {
        DIRECT: recording(DIRECT, "direct", failing=7, connections=MAX_CONNECTIONS - 1),
        LAYER: recording(LAYER, "layer alone", failing=5, connections=MAX_CONNECTIONS - 1),
        PROXY: recording(PROXY, "layer and proxy", failing=0, connections=POOL_SIZE),
    }
