"""What the layer costs an invocation that finds its connection open: `python -m tidegate_load.bench.layer_warm`.

The same work is done on the same connection with the layer around it and by psycopg alone, in turns within one run, so
that a busy machine slows both alike. Round trips are counted in libpq's own trace of messages.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import psycopg
from rich.console import Console
from rich.table import Table

import tidegate
from tidegate_load.bench.stats import Spread, spread
from tidegate_load.postgres import EmbeddedPostgres

USER = DATABASE = "bench"
PASSWORD = "bench"  # noqa: S105 -- of a server that lives as long as the measurement
BUDGET = 30.0
"""Microseconds of its own that the layer may add to an invocation."""

Handler = Callable[[object, object], object]


class Context:
    """Lambda's, with time to spare."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda would end the invocation."""
        return 60_000


@dataclass(frozen=True)
class Warm:
    """Of one kind of invocation, what the layer adds: `own`, microseconds of CPU in the function's process, which the
    machine's other work disturbs least; `wall`, microseconds until the answer, with the server's work for the layer;
    `round_trips`, with and without the layer.
    """

    own: Spread
    wall: Spread
    round_trips: int
    round_trips_without: int


def measure(rounds: int = 40, calls: int = 250) -> dict[str, Warm]:
    """The layer's own cost, by kind of invocation.

    Parameters: `rounds`, of which each gives one value, the mean over `calls` invocations with and without the layer.
    """
    with _connections() as (db, plain):

        def empty(event: object, context: object) -> object:
            return None

        @db.handler
        def borrow(event: object, context: object) -> object:
            with db.connection():
                return None

        @db.handler
        def query(event: object, context: object) -> object:
            with db.connection() as conn:
                return conn.execute("SELECT 1").fetchone()

        def query_alone(event: object, context: object) -> object:
            with plain.transaction():
                return plain.execute("SELECT 1").fetchone()

        def implicit_alone(event: object, context: object) -> object:
            row = plain.execute("SELECT 1").fetchone()
            plain.commit()
            return row

        @db.handler
        def transaction(event: object, context: object) -> object:
            return db.transaction(_select_one)

        plain.execute("CREATE TABLE counter AS SELECT 0 AS value")
        plain.commit()

        @db.handler
        def write(event: object, context: object) -> object:
            return db.transaction(_count)

        def write_alone(event: object, context: object) -> object:
            with plain.transaction():
                return _count(plain)

        kinds: dict[str, tuple[Handler, Handler]] = {
            "borrow only": (borrow, empty),
            "connection()": (query, implicit_alone),
            "transaction()": (transaction, query_alone),
            "transaction() that writes": (write, write_alone),
        }
        context = Context()
        with db.connection() as ours:
            pass
        results = {}
        for name, (with_layer, without) in kinds.items():
            own, wall = [], []
            for _ in range(rounds):
                ours_cpu, ours_wall = _microseconds(with_layer, context, calls)
                alone_cpu, alone_wall = _microseconds(without, context, calls)
                own.append(ours_cpu - alone_cpu)
                wall.append(ours_wall - alone_wall)
            results[name] = Warm(
                spread(own),
                spread(wall),
                _round_trips(ours, partial(with_layer, {}, context)),
                _round_trips(plain, partial(without, {}, context)),
            )
        return results


def _select_one(conn: psycopg.Connection[Any]) -> object:
    return conn.execute("SELECT 1").fetchone()


def _count(conn: psycopg.Connection[Any]) -> object:
    return conn.execute("UPDATE counter SET value = value + 1").rowcount


@contextmanager
def _connections() -> Iterator[tuple[tidegate.Database, psycopg.Connection[Any]]]:
    with EmbeddedPostgres("18") as server:
        server.create_user(USER, PASSWORD)
        server.create_database(DATABASE, owner=USER)
        parameters: dict[str, Any] = server.parameters(user=USER, password=PASSWORD, dbname=DATABASE)
        settings = {name: parameters[name] for name in ("host", "port", "user", "password", "dbname")}
        db = tidegate.connect(**settings, sslmode="disable")
        try:
            with psycopg.connect(**parameters) as plain:
                yield db, plain
        finally:
            db.close()


def _microseconds(handler: Handler, context: object, calls: int) -> tuple[float, float]:
    """CPU and wall-clock time of one call."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        handler({}, context)
    return (time.process_time() - cpu) / calls * 1e6, (time.perf_counter() - wall) / calls * 1e6


def _round_trips(conn: psycopg.Connection[Any], work: Callable[[], object]) -> int:
    """How often the client spoke after the server had."""
    fd = os.memfd_create("trace")
    try:
        conn.pgconn.trace(fd)
        try:
            work()
        finally:
            conn.pgconn.untrace()
        directions = [line.split(b"\t")[1:2] for line in os.pread(fd, 1 << 20, 0).splitlines()]
    finally:
        os.close(fd)
    speakers = [direction[0] for direction in directions if direction]
    return sum(1 for before, now in zip([b"B", *speakers], speakers, strict=False) if (before, now) == (b"B", b"F"))


def table(results: dict[str, Warm]) -> Table:
    """The numbers as a reader wants them."""
    shown = Table(title=f"What the layer adds to a warm invocation, in µs (budget: {BUDGET:g} of CPU)")
    for column in ("", "CPU", "quartiles", "wall", "quartiles", "round trips", "without"):
        shown.add_column(column, justify="right" if column else "left")
    for name, warm in results.items():
        cells = [cell for part in (warm.own, warm.wall) for cell in (f"{part.median:.1f}", _quartiles(part))]
        shown.add_row(name, *cells, str(warm.round_trips), str(warm.round_trips_without))
    return shown


def _quartiles(values: Spread) -> str:
    return f"{values.low:.1f} to {values.high:.1f}"


@click.command()
@click.option("--rounds", default=40, show_default=True, help="values for each kind of invocation")
def main(rounds: int) -> None:
    """Measure what the layer adds to a warm invocation."""
    Console().print(table(measure(rounds)))


if __name__ == "__main__":
    main()
