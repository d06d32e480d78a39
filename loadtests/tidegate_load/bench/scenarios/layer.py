"""(f) The layer: from a fresh interpreter to the first row, and what a warm invocation costs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from tidegate_load.bench.endpoints import Endpoint, Running, Setup
from tidegate_load.bench.endpoints.layer import LayerRunning, function_codes
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import BenchError, Stage
from tidegate_load.clean_environment import clean_environment

TIMEOUT = 60.0
"""Seconds that a program may take."""

_INVOCATIONS = 2000

# What the kernel says was sent is not a matter of opinion; offsets are those of Linux' struct tcp_info.
_WARM = """
import os as _os, socket as _socket, struct as _struct, time as _time
def _sent():
    with _socket.socket(fileno=_os.dup(socket_number())) as _copy:
        _info = _copy.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, 256)
    return _struct.unpack_from("I", _info, 156)[0]
for _ in range(100):
    invocation()
_before = _sent()
_cpu, _start = _time.process_time(), _time.perf_counter()
for _ in range({count}):
    invocation()
_cpu, _wall = _time.process_time() - _cpu, _time.perf_counter() - _start
print("warm", _wall, _cpu, _sent() - _before, flush=True)
"""


class Layer(Scenario):
    """Each program in a fresh interpreter, directly at PostgreSQL, with a password."""

    key = "f"
    name = "layer"
    title = "The layer: a function's cold start, and a warm invocation with one small query"
    metrics = (
        Metric("cold", "interpreter's start to first row", "ms", ratio=False),
        Metric("wall", "warm invocation", "µs", ratio=False),
        Metric("cpu", "its CPU in the function", "µs", ratio=False),
        Metric("packets", "packets that it sends", "", digits=2, ratio=False),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        setup = Setup(1)
        return [Case("cold", setup), Case("warm", setup, {"warm": True})]

    def endpoints(self, present: Sequence[Endpoint], case: Case) -> list[Endpoint]:
        without_warm_path = ("bare", "wrapper") if case.what else ()
        return [
            each for each in self.own_endpoints() if each.version() is not None and each.key not in without_warm_path
        ]

    def own_endpoints(self) -> list[Endpoint]:
        return list(function_codes())

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 1.0

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        assert isinstance(running, LayerRunning)
        program = running.program + (_WARM.format(count=_INVOCATIONS) if case.what else "")
        cold, output = _run(program, running.environment)
        if not case.what:
            return {"cold": cold * 1e3}
        line = next((each for each in output.splitlines() if each.startswith("warm ")), None)
        if line is None:
            raise BenchError("the program did not say what its invocations took")
        _, wall, cpu, packets = line.split()
        return {
            "wall": float(wall) / _INVOCATIONS * 1e6,
            "cpu": float(cpu) / _INVOCATIONS * 1e6,
            "packets": float(packets) / _INVOCATIONS,
        }


def _run(program: str, environment: dict[str, str]) -> tuple[float, str]:
    """Run a program: seconds until it said that it has its row, and what it said after that.

    Other lines may come before: metrics go to standard output, too. Raises: BenchError.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=clean_environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            ready = any(line.strip() == "row" for line in process.stdout)
            cold = time.perf_counter() - start
            output, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            watchdog.cancel()
    if process.returncode != 0 or not ready:
        last = (errors.strip() or "nothing").splitlines()[-1]
        raise BenchError(f"the program ended with status {process.returncode} and wrote: {last}")
    return cold, output
