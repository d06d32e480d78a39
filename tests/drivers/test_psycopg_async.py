"""psycopg 3 on asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from tests.drivers.endpoints import CLIENTS, CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint

Conn = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(endpoint: Endpoint, **keywords: Any) -> Conn:
    return await psycopg.AsyncConnection.connect(**endpoint.parameters, connect_timeout=60, **keywords)


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        async with await connect(narrow_endpoint) as one, await connect(narrow_endpoint) as two:
            for conn in (one, two, one, two):
                cursor = await conn.execute("SELECT %s::text", ["naïve"])
                assert await cursor.fetchone() == ("naïve",)
                await conn.commit()

    asyncio.run(run())
    assert narrow_endpoint.pins() == []


def test_transactions_pipelines_and_copy(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        async with (
            await connect(narrow_endpoint, autocommit=True) as conn,
            await connect(narrow_endpoint, autocommit=True) as other,
        ):
            await conn.execute("CREATE TABLE t (a int PRIMARY KEY)")
            async with conn.pipeline(), conn.transaction():
                for a in range(20):
                    await conn.execute("INSERT INTO t VALUES (%s)", [a], prepare=True)
                with pytest.raises(psycopg.errors.UniqueViolation):
                    async with conn.transaction():
                        await conn.execute("INSERT INTO t VALUES (3)")
            async with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy_in:
                for a in range(20, 100):
                    await copy_in.write_row([a])
            async with other.cursor() as cursor, cursor.copy("COPY t TO STDOUT") as copy_out:
                assert [int(row[0]) async for row in copy_out.rows()] == list(range(100))
            async with other.transaction(), other.cursor("c") as named:
                await named.execute("SELECT a FROM t ORDER BY a")
                assert await named.fetchmany(2) == [(0,), (1,)]

    asyncio.run(run())
    assert narrow_endpoint.pins() == []


def test_notifications(endpoint: Endpoint) -> None:
    async def run() -> None:
        async with (
            await connect(endpoint, autocommit=True) as listener,
            await connect(endpoint, autocommit=True) as sender,
        ):
            await listener.execute("LISTEN news")

            async def hear() -> list[str]:
                return [notify.payload async for notify in listener.notifies(timeout=60, stop_after=2)]

            hearing = asyncio.create_task(hear())
            for payload in ("one", "two"):
                await sender.execute("SELECT pg_notify('news', %s)", [payload])
            assert await hearing == ["one", "two"]

    asyncio.run(run())


def test_a_cancelled_task_cancels_its_query(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        async with await connect(narrow_endpoint, autocommit=True) as conn:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(conn.execute("SELECT pg_sleep(600)"), 0.1)
            cursor = await conn.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)
        async with await connect(narrow_endpoint) as other:
            cursor = await other.execute("SELECT 2")
            assert await cursor.fetchone() == (2,)

    asyncio.run(run())


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    async def work(client: int) -> None:
        async with await connect(endpoint) as conn:
            for turn in range(ROUNDS):
                for fate in (conn.rollback, conn.commit):
                    await conn.execute("INSERT INTO entries VALUES (%s, %s)", [client, turn])
                    await conn.execute("UPDATE counter SET n = n + 1", prepare=True)
                    await fate()

    async def run() -> None:
        async with await connect(endpoint) as conn:
            for statement in CREATE_LEDGER:
                await conn.execute(statement)
        await asyncio.gather(*map(work, range(CLIENTS)))
        async with await connect(endpoint) as conn:
            assert await (await conn.execute(LEDGER_TOTALS)).fetchone() == FULL_LEDGER

    asyncio.run(run())
    assert endpoint.pins() == []
