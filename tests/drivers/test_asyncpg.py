"""asyncpg, with single connections and with its pool."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import io
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from tests.drivers.endpoints import CLIENTS, CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint

VALUES = [
    ("bool", True),
    ("int8", -(2**62)),
    ("float8", 1.5),
    ("numeric", decimal.Decimal("12345678901234567890.123456789")),
    ("text", "naïve ☃ \\ ' $1"),
    ("bytea", b"\x00\xff" * 50),
    ("date", dt.date(2024, 2, 29)),
    ("timestamptz", dt.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=dt.UTC)),
    ("interval", dt.timedelta(days=-3, microseconds=1)),
    ("uuid", uuid.UUID(int=7)),
    ("int[]", [1, None, 3]),
    ("text[]", [["a", "b"], ["c", ","]]),
    ("int4range", asyncpg.Range(1, 5)),
    ("point", asyncpg.Point(1, 2)),
]


async def connect(endpoint: Endpoint, **keywords: Any) -> Any:
    return await asyncpg.connect(**endpoint.keywords, timeout=60, **keywords)


def with_two(endpoint: Endpoint, work: Callable[[Any, Any], Awaitable[None]]) -> None:
    """Run `work` with two connections, and close them."""

    async def run() -> None:
        one, two = await connect(endpoint), await connect(endpoint)
        try:
            await work(one, two)
        finally:
            await one.close()
            await two.close()

    asyncio.run(run())


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        for conn in (one, two, one, two):
            assert await conn.fetchval("SELECT $1::text", "x") == "x"
        three = await connect(narrow_endpoint, server_settings={"application_name": "shop", "jit": "off"})
        assert await three.fetchval("SELECT current_setting('application_name') || current_setting('jit')") == "shopoff"
        await three.close()
        assert await one.fetchval("SELECT current_setting('jit')") == "on"

    with_two(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_the_session_looks_the_same(both_endpoints: tuple[Endpoint, Endpoint]) -> None:
    async def look(endpoint: Endpoint) -> tuple[Any, ...]:
        conn = await connect(endpoint)
        settings = conn.get_settings()
        names = ("server_version", "client_encoding", "TimeZone", "DateStyle", "is_superuser", "search_path")
        seen = (conn.get_server_version(), *[getattr(settings, name) for name in names])
        await conn.close()
        return seen

    direct, proxied = both_endpoints
    assert asyncio.run(look(proxied)) == asyncio.run(look(direct))


def test_values_come_back_as_they_went(endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        for kind, value in VALUES:
            for conn in (one, two):
                assert await conn.fetchval(f"SELECT $1::{kind}", value) == value
        await one.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        assert await one.fetchval("SELECT $1::jsonb", {"a": [1, None]}) == {"a": [1, None]}
        assert await two.fetchval("SELECT $1::jsonb", '{"a": 1}') == '{"a": 1}'

    with_two(endpoint, work)


def test_types_that_must_be_looked_up_first(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        await one.execute("CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b mood)")
        for conn in (one, two):
            assert await conn.fetchval("SELECT ROW(1, 'ok')::pair") == (1, "ok")
            assert await conn.fetchval("SELECT $1::pair[]", [(2, "sad"), None]) == [(2, "sad"), None]
            assert await conn.fetchval("SELECT current_setting('jit')") == "on"

    with_two(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_transactions_and_savepoints(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        await one.execute("CREATE TABLE t (a int PRIMARY KEY)")
        async with one.transaction():
            await one.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(asyncpg.UniqueViolationError):
                async with one.transaction():
                    await one.execute("INSERT INTO t VALUES ($1), ($1)", 2)
            await one.executemany("INSERT INTO t VALUES ($1)", [(3,), (4,)])
        undone = two.transaction(isolation="serializable", deferrable=True)
        await undone.start()
        assert await two.fetchval("SHOW transaction_isolation") == "serializable"
        await two.execute("DELETE FROM t")
        await undone.rollback()
        assert [row["a"] for row in await two.fetch("SELECT a FROM t ORDER BY a")] == [1, 3, 4]
        async with two.transaction(readonly=True):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await two.execute("DELETE FROM t")

    with_two(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_prepared_statements_of_many_clients(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        conns = [await connect(narrow_endpoint) for _ in range(5)]
        statements = [await conn.prepare(f"SELECT {number} + $1::int") for number, conn in enumerate(conns)]
        for turn in range(10):
            for number, statement in enumerate(statements):
                assert await statement.fetchval(turn) == number + turn
        assert [kind.name for kind in statements[0].get_parameters()] == ["int4"]
        for conn in conns:
            await conn.close()

    asyncio.run(run())
    assert narrow_endpoint.pins() == []


def test_a_small_statement_cache_and_none_at_all(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        for size in (0, 3):
            conn = await connect(narrow_endpoint, statement_cache_size=size)
            for turn in range(3):
                for number in range(10):
                    assert await conn.fetchval(f"SELECT {number} + $1::int", turn) == number + turn
            await conn.close()

    asyncio.run(run())


def test_a_cached_statement_meets_a_changed_table(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        await one.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        assert dict(await two.fetchrow("SELECT * FROM t")) == {"a": 1}
        await one.execute("ALTER TABLE t ADD b text DEFAULT 'new'")
        # asyncpg prepares it anew by itself, once it hears that the plan must not change.
        assert dict(await two.fetchrow("SELECT * FROM t")) == {"a": 1, "b": "new"}
        await one.execute("ALTER TABLE t ADD c text DEFAULT 'newer'")
        with pytest.raises(asyncpg.InvalidCachedStatementError):
            async with two.transaction():
                await two.fetchrow("SELECT * FROM t")
        assert len(await two.fetchrow("SELECT * FROM t")) == 3

    with_two(narrow_endpoint, work)


def test_cursors(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        async with one.transaction():
            seen = [row[0] async for row in one.cursor("SELECT generate_series(1, $1::int)", 500, prefetch=7)]
            assert seen == list(range(1, 501))
            cursor = await one.cursor("SELECT generate_series(1, 100)")
            assert await cursor.forward(10) == 10
            assert [row[0] for row in await cursor.fetch(2)] == [11, 12]
        assert await two.fetchval("SELECT 1") == 1

    with_two(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_copy_in_and_out(narrow_endpoint: Endpoint) -> None:
    rows = [(number, f"text\t{number}\n") for number in range(5000)]

    async def work(one: Any, two: Any) -> None:
        await one.execute("CREATE TABLE t (a int, b text)")
        assert await one.copy_records_to_table("t", records=rows) == "COPY 5000"
        got = bytearray()

        async def take(data: bytes) -> None:
            got.extend(data)

        status = await two.copy_from_query("SELECT * FROM t WHERE a < $1", 100, output=take, format="csv")
        assert status == "COPY 100"
        assert got.startswith(b'0,"text\t0\n"\n')
        with pytest.raises(asyncpg.BadCopyFileFormatError):
            await one.copy_to_table("t", source=io.BytesIO(b"1\tx\ty\n"), format="text")
        assert await two.fetchval("SELECT count(*) FROM t") == 5000

    with_two(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_listeners(endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def hear(_: Any, pid: int, channel: str, payload: str) -> None:
            heard.put_nowait((channel, payload))

        await one.add_listener("news", hear)
        async with asyncio.timeout(20):
            await two.execute("SELECT pg_notify('news', 'one')")
            assert await heard.get() == ("news", "one")
            await one.execute("NOTIFY news, 'self'")
            assert await heard.get() == ("news", "self")
        await one.remove_listener("news", hear)
        await two.execute("NOTIFY news, 'nobody'")
        assert await one.fetchval("SELECT 1") == 1
        assert heard.empty()

    with_two(endpoint, work)


def test_timeouts_and_cancelling(narrow_endpoint: Endpoint) -> None:
    async def work(one: Any, two: Any) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await one.execute("SELECT pg_sleep(600)", timeout=0.1)
        assert await one.fetchval("SELECT 1") == 1
        task = asyncio.create_task(one.fetchval("SELECT pg_sleep(600)"))
        await asyncio.to_thread(narrow_endpoint.wait_for_sleeper)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await two.fetchval("SELECT 2") == 2
        await two.execute("SET statement_timeout TO 400")
        with pytest.raises(asyncpg.QueryCanceledError, match="statement timeout"):
            await two.execute("SELECT pg_sleep(600)")
        assert await one.fetchval("SELECT 1 FROM pg_sleep(0.7)") == 1

    with_two(narrow_endpoint, work)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1/0", asyncpg.DivisionByZeroError),
        ("SELEC 1", asyncpg.PostgresSyntaxError),
        ("SELECT * FROM nowhere", asyncpg.UndefinedTableError),
        ("SELECT 'x'::int", asyncpg.InvalidTextRepresentationError),
        ("SET no_such_parameter TO 1", asyncpg.UndefinedObjectError),
    ],
)
def test_errors_have_their_own_classes(
    narrow_endpoint: Endpoint, statement: str, error: type[asyncpg.PostgresError]
) -> None:
    async def work(one: Any, two: Any) -> None:
        for conn in (one, two):
            with pytest.raises(error):
                await conn.execute(statement)
            with pytest.raises(error):
                await conn.fetch(statement)
            assert await conn.fetchval("SELECT 1") == 1

    with_two(narrow_endpoint, work)


def test_the_pools_reset_leaves_nothing_to_the_next(narrow_endpoint: Endpoint) -> None:
    async def run() -> None:
        async with asyncpg.create_pool(**narrow_endpoint.keywords, min_size=1, max_size=1, timeout=60) as pool:
            async with pool.acquire() as conn:
                await conn.execute("SET work_mem TO '1234kB'; SELECT pg_advisory_lock(1); LISTEN news")
                assert await conn.fetchval("SELECT current_setting('work_mem')") == "1234kB"
            # Nobody else would be served if the reset had left the pool's client pinned.
            other = await connect(narrow_endpoint)
            assert await other.fetchval("SELECT pg_try_advisory_lock(1)") is True
            await other.close()
            async with pool.acquire() as conn:
                assert await conn.fetchval("SELECT current_setting('work_mem')") == "4MB"

    asyncio.run(run())


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    async def work(pool: Any, client: int) -> None:
        for turn in range(ROUNDS):
            for commits in (False, True):
                async with pool.acquire() as conn:
                    transaction = conn.transaction()
                    await transaction.start()
                    await conn.execute("INSERT INTO entries VALUES ($1, $2)", client, turn)
                    await conn.execute("UPDATE counter SET n = n + 1")
                    await (transaction.commit() if commits else transaction.rollback())

    async def run() -> None:
        async with asyncpg.create_pool(**endpoint.keywords, min_size=CLIENTS, max_size=CLIENTS, timeout=60) as pool:
            await pool.execute(";".join(CREATE_LEDGER))
            await asyncio.gather(*[work(pool, client) for client in range(CLIENTS)])
            assert tuple(await pool.fetchrow(LEDGER_TOTALS)) == FULL_LEDGER

    asyncio.run(run())
    if endpoint.proxy is not None:
        assert endpoint.server_connections() <= 2
    assert endpoint.pins() == []
