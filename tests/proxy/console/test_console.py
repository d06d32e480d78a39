"""The admin console shows who is pinned and why."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import asyncpg
import psycopg
import pytest
from tests.proxy.console.helpers import console, show
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode


@pytest.fixture
def watched(start_proxy: StartProxy) -> ProxyProcess:
    """A proxy whose test user may use the console."""
    probe = start_proxy()
    user = probe.database.user
    return start_proxy(default_pool_size=2, admin_users=[user])


def test_clients_with_what_pins_them(watched: ProxyProcess) -> None:
    with watched.connect(application_name="pinned one") as one, watched.connect(application_name="free one"):
        one.execute("CREATE TEMP TABLE t (a int)")
        one.execute("LISTEN c")

        def clients_by_name() -> dict[str, dict[str, Any]]:
            return {row["application_name"]: row for row in show(watched, "CLIENTS")}

        # The server is asked after the client has its answer.
        eventually(lambda: clients_by_name()["pinned one"]["pinned"] == "listen, temporary object")
        clients = clients_by_name()
        assert clients["pinned one"]["state"] == "active"
        assert one.execute("SELECT pg_backend_pid()").fetchone() == (clients["pinned one"]["server_pid"],)
        assert clients["free one"]["pinned"] is None
        assert clients["free one"]["state"] == "idle"


def test_pins_are_counted_by_reason(watched: ProxyProcess) -> None:
    with watched.connect() as one:
        for _ in range(2):
            one.execute("LISTEN c")
            one.execute("UNLISTEN c")
        one.execute("SELECT pg_advisory_lock(1)")
        expected = {"listen": (0, 2), "advisory lock": (1, 1)}
        eventually(lambda: {row["reason"]: (row["clients"], row["total"]) for row in show(watched, "PINS")} == expected)


def test_psql_talks_to_the_console(watched: ProxyProcess) -> None:
    parameters = watched.parameters
    psql = subprocess.run(
        [watched.database.server.tool("psql"), "-At", "-c", "SHOW VERSION", "-c", "show help"],
        env={
            "PGHOST": "127.0.0.1",
            "PGPORT": str(parameters["port"]),
            "PGUSER": parameters["user"],
            "PGPASSWORD": parameters["password"],
            "PGDATABASE": "pgbouncer",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert psql.stdout.startswith("Tidegate ")
    assert "SHOW CLIENTS|" in psql.stdout


def test_an_unknown_command_is_an_error_with_a_hint(watched: ProxyProcess) -> None:
    with RawClient(watched.parameters | {"dbname": "pgbouncer"}) as client:
        client.send(encode.query("SHOW CLIENT"))
        fields = client.error_until()
        assert fields["C"] == "42601"
        assert "CLIENTS" in fields["H"]
        client.send(encode.query(";"))
        assert client.kinds_until() == "IZ"
        client.send(b"!\0\0\0\4")
        assert client.error_until("E")["C"] == "08P01"
        assert client.is_closed()


def test_an_extended_query_is_refused_and_the_connection_goes_on(watched: ProxyProcess) -> None:
    with RawClient(watched.parameters | {"dbname": "pgbouncer"}) as client:
        extended = parse(b"", b"SHOW VERSION") + describe(b"S", b"") + bind() + execute()
        # One error for all of it, and that in its place among the answers.
        client.send(encode.query("SHOW VERSION") + extended + encode.flush())
        assert client.kinds_until("E") == "TDCZE"
        client.send(extended + encode.sync() + encode.query("SHOW VERSION"))
        assert client.kinds_until() == "Z"
        assert client.kinds_until() == "TDCZ"
        client.send(extended + encode.sync())
        error = client.error_until()
        assert error["C"] == "0A000"
        assert "simple query mode" in error["H"]


def test_drivers_that_prepare_get_an_error_that_they_survive(watched: ProxyProcess) -> None:
    with console(watched) as conn:
        for _ in range(2):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="simple queries only"):
                conn.execute("SHOW POOLS", prepare=True)
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                conn.execute("SHOW %s", ["POOLS"])
            assert conn.execute("SHOW VERSION").fetchall()


def test_asyncpg_survives_it_too(watched: ProxyProcess) -> None:
    parameters = watched.parameters

    async def run() -> None:
        conn = await asyncpg.connect(
            host=parameters["host"],
            port=parameters["port"],
            user=parameters["user"],
            password=parameters["password"],
            database="pgbouncer",
        )
        try:
            with pytest.raises(asyncpg.FeatureNotSupportedError):
                await conn.fetch("SHOW POOLS")
            assert await conn.execute("SHOW VERSION") == "SHOW"
        finally:
            await conn.close()

    asyncio.run(run())


def test_only_those_who_may_get_in(proxy: ProxyProcess) -> None:
    with pytest.raises(psycopg.OperationalError, match="may not use the admin console"):
        psycopg.connect(**(proxy.parameters | {"dbname": "pgbouncer"}))


def test_a_client_that_reads_nothing_makes_nothing_grow_and_misses_nothing(watched: ProxyProcess) -> None:
    parameters = watched.parameters | {"dbname": "pgbouncer"}
    batch = encode.query("SHOW CONFIG") * 100 + encode.query("SHOW CONFIG;" * 100)
    batches = 10
    with RawClient(parameters, timeout=2) as deaf:
        show(watched, "CONFIG")
        before = watched.resident_memory()
        with console(watched) as other:
            for _ in range(batches):
                deaf.send(batch)
                # What has come is served before this.
                psycopg.ClientCursor(other).execute("SHOW VERSION")
            with pytest.raises(TimeoutError):
                deaf.send(encode.query("-" * 60_000) * 1000)
            assert watched.resident_memory() - before < 12_000_000
            assert psycopg.ClientCursor(other).execute("SHOW VERSION").fetchone()
        deaf.socket.settimeout(60)
        received = bytearray()
        answers = position = 0
        while answers < 101 * batches:
            if len(received) < position + 5:
                received += deaf.socket.recv(1 << 20)
                continue
            answers += received[position] == ord("Z")
            position += 1 + int.from_bytes(received[position + 1 : position + 5], "big")
        assert received.count(b"max_client_conn_per_source") == 200 * batches


def test_the_console_does_not_hold_up_a_drain(watched: ProxyProcess) -> None:
    with RawClient(watched.parameters | {"dbname": "pgbouncer"}) as client:
        assert watched.stop() == 0
        assert client.is_closed()
