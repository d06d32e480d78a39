"""What keeping sessions apart costs: `python -m tidegate_load.bench.session_cost`.

First the test whether a statement looks as if it changed the session, inside this process. Then transactions through
real proxies, all kinds in turn within one run, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import psutil
import psycopg
from psycopg.pq import ExecStatus
from rich.console import Console
from rich.table import Table

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.core.suspect import examine, is_suspect

USER = DATABASE = "bench"
PASSWORD = "bench"  # noqa: S105 -- of a server that lives as long as the measurement
START_TIMEOUT = 30.0

TEXTS = {
    "SELECT 1": b"SELECT 1",
    "a SELECT of a few columns by key": b'SELECT "id", "name", "created_at" FROM "app_user" WHERE "id" = $1 LIMIT 21',
    "an UPDATE ... SET": b"UPDATE accounts SET balance = balance + $1, changed = now() WHERE id = $2 RETURNING balance",
    "an INSERT of 1 kB": b"INSERT INTO notes (a, b) VALUES " + b", ".join([b"('some words', 'and some more')"] * 32),
    "one with a comment": b"SELECT 1 /* controller='users',action='show' */",
}
SUSPECT_TEXTS = {
    "SET": b"SET search_path TO app, public",
    "a string with the words in it": b"INSERT INTO notes VALUES ('; SET this; LISTEN to me')",
}

_LISTENING = re.compile(r"is listening on \S+ port (\d+)")


def in_process(rounds: int) -> Table:
    """Microseconds per call."""
    table = Table("in this process", "median", "10th percentile", "90th percentile", title="microseconds per statement")
    calls = 2000
    kinds: list[tuple[str, list[bytes], Callable[[bytes], object]]] = []
    for name, text in TEXTS.items():
        kinds.append((f"is_suspect: {name}, seen before", [_query(text)] * calls, is_suspect))
        # More of them than are remembered.
        kinds.append((f"is_suspect: {name}, new", [_query(text + b" OFFSET %d" % n) for n in range(calls)], is_suspect))
    for name, text in SUSPECT_TEXTS.items():
        kinds.append((f"is_suspect and examine: {name}", [_query(text)] * calls, _both))
    for name, messages, function in kinds:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            for message in messages:
                function(message[5:-1])
            times.append((time.perf_counter() - start) / calls * 1e6)
        table.add_row(name, *_spread(times, 2))
    return table


def _query(text: bytes) -> bytes:
    """A Query message: the proxy cuts the text out of it each time."""
    return b"Q0000" + text + b"\0"


def _both(text: bytes) -> object:
    return is_suspect(text) and examine(text, True)


def _spread(values: list[float], digits: int) -> list[str]:
    tenths = statistics.quantiles(values, n=10)
    return [f"{value:.{digits}f}" for value in (statistics.median(values), tenths[0], tenths[-1])]


@contextmanager
def running_proxy(server: EmbeddedPostgres, session_check: str, folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """A proxy process in front of the server, and its port. Raises: RuntimeError when it does not start."""
    target = f"TIDEGATE_DATABASES__{DATABASE.upper()}__"
    settings = {
        "TIDEGATE_LISTEN_PORT": "0",
        "TIDEGATE_DEFAULT_POOL_SIZE": "2",
        "TIDEGATE_SESSION_CHECK": session_check,
        target + "HOST": str(server.host),
        target + "PORT": str(server.port),
        target + "TLS": "disable",
        f"TIDEGATE_USERS__{USER.upper()}__PASSWORD": PASSWORD,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PG"))}
    log = folder / f"{session_check}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidegate_proxy", "serve"],
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while (found := _LISTENING.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield psutil.Process(process.pid), int(found[1])
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Kind:
    """One kind of transaction: how to run it, and what was measured, in microseconds per transaction."""

    def __init__(self, name: str, conn: psycopg.Connection, run: Callable[[], object], proxy: psutil.Process | None):
        self.name = name
        self.conn = conn
        self.run = run
        self.proxy = proxy
        self.times: list[float] = []
        self.cpu: list[float] = []

    def measure(self, count: int) -> None:
        """One more round."""
        run = self.run
        before = self._cpu_seconds()
        start = time.perf_counter()
        for _ in range(count):
            run()
        self.times.append((time.perf_counter() - start) / count * 1e6)
        self.cpu.append((self._cpu_seconds() - before) / count * 1e6)

    def _cpu_seconds(self) -> float:
        if self.proxy is None:
            return 0.0
        times = self.proxy.cpu_times()
        return float(times.user + times.system)


def through_proxies(rounds: int, count: int) -> Table:
    """Microseconds per transaction of one client that never waits, and of the proxy's CPU."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        server = stack.enter_context(EmbeddedPostgres("18"))
        server.create_user(USER, PASSWORD)
        server.create_database(DATABASE, owner=USER)
        direct = server.parameters(user=USER, password=PASSWORD, dbname=DATABASE)
        suspect, suspect_port = stack.enter_context(running_proxy(server, "suspect", folder))
        always, always_port = stack.enter_context(running_proxy(server, "always", folder))

        def kind(name: str, port: int | None, proxy: psutil.Process | None, how: str = "SELECT 1") -> Kind:
            parameters = direct if port is None else direct | {"host": "127.0.0.1", "port": port}
            conn = stack.enter_context(psycopg.connect(**parameters, autocommit=True))
            raw = conn.pgconn
            if how == "prepared":
                raw.prepare(b"one", b"SELECT 1")
                return Kind(name, conn, lambda: raw.exec_prepared(b"one", None), proxy)
            if how == "pinned":
                conn.execute("LISTEN bench")
                how = "SELECT 1"
            text = how.encode()
            if raw.exec_(text).status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise RuntimeError(f"{name}: {raw.error_message.decode()}")
            return Kind(name, conn, lambda: raw.exec_(text), proxy)

        kinds = [
            kind("suspect: plain", suspect_port, suspect),
            kind("suspect: prepared", suspect_port, suspect, "prepared"),
            kind("suspect: SET outside a transaction", suspect_port, suspect, "SET work_mem TO '8MB'"),
            kind("suspect: UPDATE-like text with SET in it", suspect_port, suspect, "SELECT '; SET a TO 1'"),
            kind("always: plain", always_port, always),
            kind("always: prepared", always_port, always, "prepared"),
            kind("suspect: plain, pinned by LISTEN", suspect_port, suspect, "pinned"),
            kind("PostgreSQL itself: plain", None, None),
        ]
        for each in kinds:
            each.measure(count)
            each.times.clear()
            each.cpu.clear()
        for _ in range(rounds):
            for each in kinds:
                each.measure(count)
    table = Table(
        *("transaction", "median", "10th pct", "90th pct", "ratio", "proxy CPU", "ratio"),
        title="microseconds per transaction, one client, one after the other",
    )
    base, base_cpu = statistics.median(kinds[0].times), statistics.fmean(kinds[0].cpu)
    for each in kinds:
        cpu = statistics.fmean(each.cpu)
        shown = [f"{cpu:.0f}", f"{cpu / base_cpu:.2f}"] if each.proxy is not None and base_cpu else ["", ""]
        table.add_row(each.name, *_spread(each.times, 0), f"{statistics.median(each.times) / base:.2f}", *shown)
    return table


@click.command()
@click.option("--rounds", type=click.IntRange(min=2), default=30, show_default=True, help="Rounds of every kind.")
@click.option("--count", type=click.IntRange(min=1), default=500, show_default=True, help="Transactions per round.")
def main(rounds: int, count: int) -> None:
    """Measure what keeping sessions apart costs, and print it."""
    console = Console(width=120)
    console.print(in_process(rounds))
    console.print(through_proxies(rounds, count))


if __name__ == "__main__":
    main()
