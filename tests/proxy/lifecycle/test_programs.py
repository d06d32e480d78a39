"""psql, pgbench and psycopg through the proxy, with more clients than server connections."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.proxy import ProxyProcess, StartProxy

CLIENTS = 8


@pytest.fixture
def shared(start_proxy: StartProxy) -> ProxyProcess:
    """Two server connections, for many clients."""
    return start_proxy(default_pool_size=2)


def run(proxy: ProxyProcess, name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    parameters = proxy.parameters
    variables = {
        "PGHOST": parameters["host"],
        "PGPORT": str(parameters["port"]),
        "PGUSER": parameters["user"],
        "PGPASSWORD": parameters["password"],
        "PGDATABASE": parameters["dbname"],
    }
    return subprocess.run(
        [proxy.database.server.tool(name), *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")} | variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_psql_runs_a_script(shared: ProxyProcess, tmp_path: Path) -> None:
    script = r"""
        CREATE TABLE t (n int PRIMARY KEY, s text);
        INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 100) n;
        \copy t TO 'FILE'
        BEGIN;
        TRUNCATE t;
        \copy t FROM 'FILE'
        COMMIT;
        \d t
        SELECT count(*) FROM t WHERE n BETWEEN :low AND 50 \gset
        \echo rows: :count
        PREPARE p AS SELECT $1::int + 1;
        EXECUTE p (41);
        SELECT $1::int * 2 AS doubled \bind 21 \g
        SELECT 1 \; SELECT 2;
        SELECT 1/0;
        \conninfo
    """.replace("FILE", str(tmp_path / "rows"))
    ran = run(shared, "psql", "-X", "-v", "low=11", stdin=script)
    assert ran.returncode == 0
    assert "rows: 40" in ran.stdout
    assert "COPY 100" in ran.stdout
    assert '"t_pkey" PRIMARY KEY' in ran.stdout
    assert ran.stdout.count(" 42\n") == 2
    assert "ERROR:  division by zero" in ran.stderr


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(shared: ProxyProcess, protocol: str) -> None:
    assert run(shared, "pgbench", "-i", "-q").returncode == 0
    # A thread for each client: pgbench prepares synchronously, so clients of one thread would wait for each other.
    clients = ["-n", "-c", str(CLIENTS), "-j", str(CLIENTS), "-t", "50", "-M", protocol]
    for script in ("tpcb-like", "select-only"):
        ran = run(shared, "pgbench", *clients, "-b", script)
        assert ran.returncode == 0, ran.stderr
        assert f"number of transactions actually processed: {50 * CLIENTS}/{50 * CLIENTS}" in ran.stdout
        assert re.search(r"number of failed transactions: 0 ", ran.stdout)
    assert len(shared.server_pids()) == 2
    with shared.connect() as conn:
        row = conn.execute("SELECT sum(bbalance), (SELECT sum(delta) FROM pgbench_history) FROM pgbench_branches")
        branches, history = row.fetchone() or (None, 0)
        assert branches == history
        assert conn.execute("SELECT count(*) FROM pgbench_history").fetchone() == (50 * CLIENTS,)


def test_pgbench_with_a_connection_for_each_transaction_and_a_pipeline(shared: ProxyProcess, tmp_path: Path) -> None:
    clients = ["-n", "-c", str(CLIENTS), "-j", str(CLIENTS), "-t", "20", "-M", "extended"]
    assert run(shared, "pgbench", "-i", "-q").returncode == 0
    assert run(shared, "pgbench", *clients, "-C", "-b", "select-only").returncode == 0
    script = tmp_path / "pipeline.sql"
    script.write_text("\\startpipeline\nBEGIN;\nSELECT 1;\nSELECT 2;\nCOMMIT;\n\\endpipeline\n")
    ran = run(shared, "pgbench", *clients, "-f", str(script))
    assert ran.returncode == 0, ran.stderr


def work(conn: psycopg.Connection[Any], number: int) -> None:
    """One session's worth of everything that psycopg does by itself."""
    for round_ in range(5):
        with conn.transaction():
            conn.execute("INSERT INTO t VALUES (%s, %s)", [number, round_])
            with conn.transaction(force_rollback=True):
                conn.execute("INSERT INTO t VALUES (-1, -1)")
        rows = conn.execute("SELECT round FROM t WHERE client = %s ORDER BY 1", [number], prepare=True).fetchall()
        assert rows == [(n,) for n in range(round_ + 1)]
        with conn.transaction(), conn.cursor(name="c") as portal:
            portal.itersize = 7
            portal.execute("SELECT generate_series(1, 50)")
            assert sum(1 for _ in portal) == 50
        with conn.pipeline():
            cursors = [conn.execute("SELECT %s::int", [n]) for n in range(20)]
            assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(20)]
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO t2 VALUES (%s)", [(n,) for n in range(10)])
            with cursor.copy("COPY t2 FROM STDIN") as copy:
                for n in range(10):
                    copy.write_row([n])
            with cursor.copy("COPY (SELECT generate_series(1, 30)) TO STDOUT") as copy:
                assert sum(1 for _ in copy.rows()) == 30
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")


def tables(proxy: ProxyProcess) -> None:
    with proxy.connect() as conn:
        conn.execute("CREATE TABLE t (client int, round int); CREATE TABLE t2 (n int)")


def test_psycopg(shared: ProxyProcess) -> None:
    tables(shared)

    def session(number: int) -> None:
        with shared.connect() as conn:
            work(conn, number)

    with ThreadPoolExecutor(CLIENTS) as executor:
        for _ in executor.map(session, range(CLIENTS)):
            pass
    with shared.connect() as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (5 * CLIENTS,)
        assert conn.execute("SELECT count(*) FROM t2").fetchone() == (5 * 20 * CLIENTS,)
    assert len(shared.server_pids()) == 2


def test_psycopg_on_asyncio(shared: ProxyProcess) -> None:
    tables(shared)

    async def session(number: int) -> None:
        conn = await psycopg.AsyncConnection.connect(**shared.parameters, autocommit=True)
        async with conn:
            for round_ in range(5):
                async with conn.transaction():
                    await conn.execute("INSERT INTO t VALUES (%s, %s)", [number, round_])
                async with conn.pipeline():
                    cursors = [await conn.execute("SELECT %s::int", [n]) for n in range(10)]
                    assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(10)]
                async with conn.transaction(), conn.cursor(name="c") as portal:
                    await portal.execute("SELECT generate_series(1, 20)")
                    assert len(await portal.fetchall()) == 20
                async with conn.cursor() as cursor, cursor.copy("COPY t2 FROM STDIN") as copy:
                    await copy.write_row([number])

    async def sessions() -> None:
        await asyncio.gather(*(session(number) for number in range(CLIENTS)))

    asyncio.run(sessions())
    with shared.connect() as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (5 * CLIENTS,)
        assert conn.execute("SELECT count(*) FROM t2").fetchone() == (5 * CLIENTS,)
