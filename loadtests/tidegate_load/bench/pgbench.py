"""pgbench as a client: a window of steady load, and what the endpoint used during just that window."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from tidegate_load.bench.endpoints.base import Running
from tidegate_load.bench.stage import BenchError, Program, Stage
from tidegate_load.bench.stats import percentile
from tidegate_load.bench.usage import Usage

MODES = ("simple", "extended", "prepared")
"""pgbench's ways to send a query."""

LOGIN_TIMEOUT = 60.0
"""Seconds that pgbench may take until its first transaction."""

_SETTLING = 0.1  # seconds in which caches fill and statements are prepared
_SLACK = 1.0  # seconds for logging in and settling, part of pgbench's own duration


@dataclass(frozen=True, slots=True)
class Transaction:
    """One line of pgbench's log: `end` in seconds since the epoch, `latency` in milliseconds."""

    client: int
    end: float
    latency: float


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two moments under steady load."""

    seconds: float
    latencies: list[float]
    usage: Usage

    @property
    def per_second(self) -> float:
        """Transactions per second."""
        return len(self.latencies) / self.seconds

    def latency(self, share: float) -> float:
        """A percentile of the latency, in milliseconds."""
        return percentile(self.latencies, share)

    def microseconds(self, seconds: float) -> float:
        """Seconds of CPU as microseconds per transaction."""
        return seconds / len(self.latencies) * 1e6


def read_log(folder: Path) -> list[Transaction]:
    """All transactions in pgbench's logs in a folder. Raises: BenchError for one that failed."""
    found = []
    for path in sorted(folder.glob("transactions*")):
        for line in path.read_bytes().splitlines():
            # client, number, microseconds, script, seconds since the epoch and microseconds
            client, _, latency, _, seconds, fraction = line.split()[:6]
            if not latency.isdigit():
                raise BenchError(f"a transaction of pgbench {latency.decode()}")
            found.append(Transaction(int(client), int(seconds) + int(fraction) / 1e6, int(latency) / 1e3))
    return found


def arguments(stage: Stage, folder: Path, *, mode: str, clients: int) -> list[str | Path]:
    """pgbench's arguments for one thread that logs every transaction to a folder."""
    program = stage.server.tool("pgbench")
    options = ["--no-vacuum", "--protocol", mode, "--client", str(clients), "--jobs", "1", "--log"]
    return [program, *options, f"--log-prefix={folder / 'transactions'}"]


def measure_window(
    stage: Stage, running: Running, *, mode: str, clients: int, seconds: float, script: list[str | Path] | None = None
) -> Window:
    """Put steady load on an endpoint and measure for `seconds`, logins and the first moments left out.

    Parameters: `mode`, one of MODES; `script`, pgbench's options that choose the transaction, else `--select-only`.
    Raises: BenchError.
    """
    duration = math.ceil(seconds + _SLACK)
    for attempt in range(3):
        folder = stage.new_folder("pgbench")
        command = arguments(stage, folder, mode=mode, clients=clients) + list(script or ["--select-only"])
        with Program([*command, "--time", str(duration)], running.parameters) as program:
            _wait_for_first_transaction(stage, program, folder)
            stage.interruption.wait(_SETTLING)
            start, before = time.time(), running.usage()
            stage.interruption.wait(seconds)
            end, after = time.time(), running.usage()
            in_time = program.process.poll() is None
            program.finish(stage.interruption, duration + LOGIN_TIMEOUT)
        if in_time:
            break
        # Logging in took so long that pgbench was over before the window was.
        duration += 3 * (attempt + 1)
    else:
        raise BenchError(f"{clients} clients took too long to log in")
    latencies = sorted(each.latency for each in read_log(folder) if start <= each.end < end)
    if not latencies:
        raise BenchError("no transaction ended within the window")
    return Window(end - start, latencies, after - before)


def window_values(window: Window, running: Running) -> dict[str, float]:
    """The usual values of a window: `throughput` per second, `p50` and `p99` in ms, `cpu` and `kernel` in µs each."""
    values = {"throughput": window.per_second, "p50": window.latency(0.5), "p99": window.latency(0.99)}
    if running.is_pooler:
        values["cpu"] = window.microseconds(window.usage.cpu)
        values["kernel"] = window.microseconds(window.usage.kernel)
    return values


def warm_up(stage: Stage, running: Running, mode: str, clients: int) -> None:
    """A few transactions that nobody looks at. Raises: BenchError."""
    command = arguments(stage, stage.new_folder("pgbench"), mode=mode, clients=clients)
    stage.run([*command, "--select-only", "--transactions", "20"], running.parameters)


def _wait_for_first_transaction(stage: Stage, program: Program, folder: Path) -> None:
    deadline = time.monotonic() + LOGIN_TIMEOUT
    while not any(path.stat().st_size for path in folder.glob("transactions*")):
        if program.process.poll() is not None:
            program.finish(stage.interruption, LOGIN_TIMEOUT)
            return
        if time.monotonic() > deadline:
            raise BenchError(f"pgbench had no transaction within {LOGIN_TIMEOUT:.0f} s")
        stage.interruption.wait(0.005)
