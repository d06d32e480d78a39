"""(d) Bulk: a lot of data out by SELECT and by COPY, and in by COPY."""

from __future__ import annotations

import socket
import time

from tidegate_load.bench.endpoints import Running, Setup
from tidegate_load.bench.measurements import Metric
from tidegate_load.bench.scenarios.base import Case, Scenario, Sizes
from tidegate_load.bench.stage import DATABASE, USER, BenchError, Stage
from tidegate_load.bench.wire import TERMINATE, WireClient, message, query

ROW = 1000
"""Bytes of text in each row."""

CLIENT_TIMEOUT = 60.0
"""Seconds without a byte after which an endpoint has failed."""

_READ = 1 << 18
_READY = b"Z\0\0\0\5I"
_ROWS_PER_MESSAGE = 8  # libpq and drivers send messages of about this size
_ROUGHLY = 300.0  # MB/s, for the estimate only

TABLE = "bulk"
_ROWS = f"SELECT repeat('x', {ROW}) FROM generate_series(1, %d)"  # noqa: S608 -- numbers only
_COPY_OUT = f"COPY ({_ROWS}) TO STDOUT"


class Bulk(Scenario):
    """One client that moves data as fast as it can."""

    key = "d"
    name = "bulk"
    title = "Bulk: one client reads or writes rows of 1 kB"
    metrics = (
        Metric("rate", "rate", "MB/s", digits=0, better="higher"),
        Metric("cpu", "pooler's CPU", "s/GB", digits=2),
        Metric("peak", "pooler's peak memory", "MB"),
    )

    def cases(self, sizes: Sizes) -> list[Case]:
        setup = Setup(10, pool_size=sizes.pool_size)
        return [
            Case(f"{sizes.out} MB out, SELECT", setup, {"sql": _ROWS, "size": sizes.out}, fresh=True),
            Case(f"{sizes.out} MB out, COPY", setup, {"sql": _COPY_OUT, "size": sizes.out}, fresh=True),
            Case(f"{sizes.into} MB in, COPY", setup, {"size": sizes.into}, fresh=True),
        ]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 0.3 + (sizes.out if "sql" in case.what else sizes.into) / _ROUGHLY

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        size = case.what["size"]
        assert isinstance(size, int)
        rows = size * 1_000_000 // ROW
        sql = case.what.get("sql")
        if sql is None:
            with stage.server.connect(dbname=DATABASE) as conn:
                conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
                conn.execute(f"CREATE UNLOGGED TABLE {TABLE} (line text)")
                conn.execute(f"GRANT ALL ON {TABLE} TO {USER}")
        with _Client(stage, running) as client:
            used, start = running.usage(), time.monotonic()
            moved = client.write(rows, stage) if sql is None else client.read(str(sql) % rows, stage)
            seconds, used = time.monotonic() - start, running.usage() - used
        if sql is None:
            with stage.server.connect(dbname=DATABASE) as conn:
                row = conn.execute(f"SELECT count(*) FROM {TABLE}").fetchone()  # noqa: S608 -- no value in it
                conn.execute(f"DROP TABLE {TABLE}")
            if row != (rows,):
                raise BenchError(f"{rows} rows were sent, {row} arrived")
        elif moved < rows * ROW:
            raise BenchError(f"{rows * ROW} bytes were expected, {moved} came")
        values = {"rate": moved / seconds / 1e6}
        if running.is_pooler:
            values |= {"cpu": used.cpu / (moved / 1e9), "peak": running.peak_memory() / 1e6}
        return values


class _Client:
    """A blocking connection that looks at the data as little as possible."""

    def __init__(self, stage: Stage, running: Running) -> None:
        self._wire = WireClient(stage.password)
        address = (running.parameters["host"], running.parameters["port"])
        try:
            self._socket = socket.create_connection(address, timeout=CLIENT_TIMEOUT)
        except OSError as error:
            raise BenchError(f"could not connect: {error}") from None

    def __enter__(self) -> _Client:
        try:
            self._socket.sendall(WireClient.startup(USER, DATABASE))
            self._wait("ready")
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._socket.sendall(TERMINATE)
        except OSError:
            pass  # it is the end either way
        finally:
            self._socket.close()

    def read(self, sql: str, stage: Stage) -> int:
        """Run a query and return the count of bytes that came."""
        self._socket.sendall(query(sql))
        buffer = bytearray(_READ)
        view = memoryview(buffer)
        count, tail = 0, b""
        while tail != _READY:
            got = self._receive(view)
            count += got
            tail = (tail + bytes(view[max(0, got - len(_READY)) : got]))[-len(_READY) :]
            stage.interruption.check()
        return count

    def write(self, rows: int, stage: Stage) -> int:
        """COPY so many rows into the table and return the count of bytes sent."""
        self._socket.sendall(query(f"COPY {TABLE} FROM STDIN"))
        self._wait("copying")
        line = b"x" * (ROW - 1) + b"\n"
        single = message(b"d", line * _ROWS_PER_MESSAGE)
        batch = single * 32
        whole, rest = divmod(rows, _ROWS_PER_MESSAGE * 32)
        end = message(b"d", line * rest) + message(b"c", b"")
        try:
            for _ in range(whole):
                self._socket.sendall(batch)
                stage.interruption.check()
            self._socket.sendall(end)
        except OSError as error:
            raise BenchError(f"could not send: {error}") from None
        self._wait("ready")
        return whole * len(batch) + len(end)

    def _receive(self, view: memoryview) -> int:
        try:
            got = self._socket.recv_into(view)
        except OSError as error:
            raise BenchError(f"could not receive: {error}") from None
        if not got:
            raise BenchError("the connection was closed")
        return got

    def _wait(self, what: str) -> None:
        """Until the client is `ready`, or is `copying`."""
        self._wire.ready = self._wire.copying = False
        view = memoryview(bytearray(1 << 16))
        while not getattr(self._wire, what):
            got = self._receive(view)
            if answer := self._wire.feed(bytes(view[:got])):
                self._socket.sendall(answer)
            if self._wire.error:
                raise BenchError(self._wire.error)
