"""`AsyncDatabase`: the same promises in asyncio, over as many event loops as there are invocations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import PATIENT, Context, connected, plain_connection, terminate
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate
from tidegate.connection import AsyncConnection


@asynccontextmanager
async def async_connected(database: Database, **keywords: Any) -> AsyncIterator[tidegate.AsyncDatabase]:
    settings: dict[str, Any] = {**database.parameters, "sslmode": "disable", **keywords}
    db = tidegate.connect_async(**settings)
    try:
        yield db
    finally:
        db.close()


async def backend_of(db: tidegate.AsyncDatabase) -> int:
    async with db.connection() as conn:
        return conn.info.backend_pid


async def insert(conn: AsyncConnection, name: str = "x") -> str:
    await conn.execute("INSERT INTO work VALUES (%s)", [name])
    return name


@pytest.fixture
def work(database: Database) -> Database:
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE work (name text)")
    return database


def rows(database: Database) -> int:
    with plain_connection(database) as conn:
        found = conn.execute("SELECT count(*) FROM work").fetchone()
    assert found is not None
    return int(found[0])


def test_one_connection_serves_invocations_that_each_have_an_event_loop(database: Database) -> None:
    settings: dict[str, Any] = {**database.parameters, "sslmode": "disable"}
    db = tidegate.connect_async(**settings)

    @db.handler
    async def answer(event: dict[str, int], context: object) -> tuple[int, int]:
        async with db.connection() as conn:
            cursor = await conn.execute("SELECT %s::int + 1", [event["n"]])
            row = await cursor.fetchone()
            assert row is not None
            return row[0], conn.info.backend_pid

    def handler(event: dict[str, int], context: object) -> tuple[int, int]:
        async def main() -> tuple[int, int]:
            return await answer(event, context)

        return asyncio.run(main())

    first, second = handler({"n": 1}, Context()), handler({"n": 2}, Context())
    assert (first[0], second[0]) == (2, 3)
    assert first[1] == second[1]
    db.close()


def test_a_dead_connection_is_replaced_and_a_long_idle_one_pinged(database: Database) -> None:
    async def main() -> None:
        async with async_connected(database, idle_check=0) as db:
            await db.open()
            pid = await backend_of(db)
            assert await backend_of(db) == pid
            await asyncio.to_thread(terminate, database, pid)
            assert await backend_of(db) != pid

    asyncio.run(main())


def test_a_statement_is_cancelled_at_the_deadline(database: Database) -> None:
    async def main() -> None:
        async with async_connected(database, **PATIENT) as db:
            context = Context(2.7)
            with pytest.raises(tidegate.DeadlineExceeded, match="cancelled"):
                async with db.invocation(context), db.connection() as conn:
                    await conn.execute("SELECT pg_sleep(60)")
            assert context.get_remaining_time_in_millis() > 0
            async with db.invocation(Context()), db.connection() as conn:
                assert await (await conn.execute("SELECT 1")).fetchone() == (1,)

    asyncio.run(main())


def test_a_black_hole_does_not_hold_the_handler_nor_the_event_loop(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        async with async_connected(database, port=relay.port, connect_timeout=0.3, **PATIENT) as db:
            await db.open()
            ticker = asyncio.create_task(tick())
            context = Context(2.7)
            with pytest.raises(tidegate.DeadlineExceeded):  # noqa: PT012
                async with db.invocation(context), db.connection() as conn:
                    relay.black_hole()
                    await conn.execute("SELECT 1")
            assert context.get_remaining_time_in_millis() > 0
            with pytest.raises(tidegate.DeadlineExceeded):
                async with db.invocation(Context(2.7)), db.connection():
                    pass
            ticker.cancel()
            assert ticks > 10
            relay.resume()
            assert await backend_of(db)

    asyncio.run(main())


def test_transaction_runs_again_after_a_loss_and_finds_out_a_lost_commit(
    work: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(work.server.port)

    async def main() -> None:
        async with async_connected(work, port=relay.port) as db:
            await db.open()
            relay.reset_at(b"INSERT", after_answer=True)
            assert await db.transaction(insert, "a") == "a"
            relay.reset_at_answer(b"COMMIT\0")
            assert await db.transaction(insert, name="b") == "b"
            relay.reset_at(b"COMMIT", after_answer=True)
            with pytest.raises(tidegate.CommitOutcomeUnknown):
                await db.transaction(insert, "c")

    asyncio.run(main())
    assert rows(work) == 3


def test_blocks_commit_roll_back_and_leave_nothing(work: Database) -> None:
    async def main() -> None:
        async with async_connected(work) as db:
            async with db.invocation(Context()):
                async with db.connection() as conn:
                    await insert(conn)
                with pytest.raises(psycopg.errors.DivisionByZero):  # noqa: PT012
                    async with db.connection() as conn:
                        await insert(conn)
                        await conn.execute("SELECT 1/0")
                async with db.connection() as conn:
                    await conn.set_autocommit(True)
                    await conn.execute("SET work_mem = '123kB'")
            async with db.connection() as conn:
                assert await (await conn.execute("SHOW work_mem")).fetchone() == ("4MB",)
                with pytest.raises(tidegate.TidegateError, match="borrowed already"):
                    await backend_of(db)

    asyncio.run(main())
    assert rows(work) == 1


def test_a_task_that_is_cancelled_leaves_no_statement_running(database: Database) -> None:
    def busy() -> bool:
        with database.server.connect() as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE %s AND state = 'active'"
            found = admin.execute(query, [database.name, "%pg_sleep%"]).fetchone()
        return bool(found and found[0])

    async def sleep(db: tidegate.AsyncDatabase) -> None:
        async with db.connection() as conn:
            await conn.execute("SELECT pg_sleep(60)")

    async def main() -> None:
        async with async_connected(database) as db:
            task = asyncio.create_task(sleep(db))
            await asyncio.to_thread(eventually, busy)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(eventually, lambda: not busy())
            assert await backend_of(db)

    asyncio.run(main())


def test_a_wrong_password_and_a_missing_host_are_told_at_once(database: Database) -> None:
    async def main() -> None:
        async with async_connected(database, password="wrong") as db:
            with pytest.raises(psycopg.OperationalError, match="FATAL") as caught:
                await backend_of(db)
            assert caught.value.sqlstate == "28P01"
        async with async_connected(database, host="no-such-host.invalid", default_timeout=0.3) as db:
            with pytest.raises(tidegate.DeadlineExceeded, match="no-such-host"):
                await backend_of(db)

    asyncio.run(main())


def test_an_asynchronous_handler_on_the_blocking_database_is_refused_with_the_remedy(database: Database) -> None:
    async def handler(event: object, context: object) -> None:
        pass

    with connected(database) as db, pytest.raises(tidegate.TidegateError, match="connect_async"):
        db.handler(handler)
