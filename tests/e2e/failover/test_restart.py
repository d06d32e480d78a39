"""The server is restarted, or slow to start: only what was in flight fails, the rest waits."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.e2e.failover.conftest import NO_CONTROL, MakeProxy, Pair
from tests.e2e.failover.slots import assert_all_slots_free
from tests.e2e.failover.writers import Writers, check_books
from tests.support.asyncclient import AsyncClient
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

from tidegate_load.standby import StandbyPostgres

CLIENTS, POOL_SIZE = 100, 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["stopped in order", "crashed"])
def test_a_restart_under_load_fails_nothing_that_had_not_started(
    lone_server: Database, proxy_for: MakeProxy, how: str
) -> None:
    server = lone_server.server
    proxy = proxy_for(lone_server, {}, default_pool_size=POOL_SIZE, reserve_pool_size=0)

    async def restart(proxy: ProxyProcess) -> None:
        names = [f"w{number}{'s' * (number % 2)}" for number in range(CLIENTS)]
        writers = Writers(lambda: AsyncClient.connect(proxy.parameters), names)
        await writers.start()
        await writers.all_wrote_after(time.monotonic())
        await asyncio.to_thread(server.stop if how == "stopped in order" else server.kill)
        await asyncio.to_thread(server.start)
        await writers.all_wrote_after(time.monotonic())
        await writers.stop()
        record = writers.record
        assert (record.lost, record.logins) == (0, CLIENTS)
        # Each server connection can take one transaction with it.
        assert record.failed <= POOL_SIZE
        assert set(record.errors) <= {"08006", "57P01"}
        check_books(record, server, lone_server.name)

    asyncio.run(restart(proxy))
    assert_all_slots_free(proxy, lone_server, POOL_SIZE)


@pytest.mark.timeout(300)
def test_a_server_that_is_starting_up_is_waited_for(pair: Pair, proxy_for: MakeProxy) -> None:
    """57P03 until it is promoted: without hot_standby, a standby lets nobody in."""
    settings = {"hot_standby": "off"}
    with StandbyPostgres(pair.primary, name="cold", host="127.0.0.3", settings=settings) as starting:
        proxy = proxy_for(pair.database, {"host": starting.host, "port": starting.port}, default_pool_size=4)

        async def wait_for_it() -> None:
            logins = [asyncio.create_task(AsyncClient.connect(proxy.parameters)) for _ in range(20)]
            await asyncio.to_thread(eventually, lambda: "CONNECTION_FAILED" in proxy.log, what="57P03")
            await asyncio.to_thread(starting.promote)
            for client in await asyncio.gather(*logins):
                assert (await client.query("INSERT INTO written VALUES ('late', 1)")).tag == "INSERT 0 1"
                client.close()

        asyncio.run(wait_for_it())
        assert "the database system is not accepting connections" in proxy.log
        assert_all_slots_free(proxy, Database(starting, "app", "app", pair.database.password), 4)


@pytest.mark.timeout(300)
def test_a_transaction_that_began_before_the_restarted_server_could_be_watched_goes_on(
    lone_server: Database, proxy_for: MakeProxy
) -> None:
    """It is not one that was left behind on a server which another one has replaced."""
    server = lone_server.server
    proxy = proxy_for(lone_server, {}, left_writer_timeout=1)
    with proxy.connect() as conn:
        conn.execute("SELECT 1")
        with server.connect(dbname=lone_server.name) as admin:
            admin.execute(NO_CONTROL)
        server.stop()
        eventually(lambda: "UNREACHABLE" in proxy.log, what="the proxy's noticing")
        server.start()
        conn.execute("BEGIN")
        conn.execute("INSERT INTO written VALUES ('begun', 1)")
        seen = proxy.log.count("AVAILABLE, READ_WRITE")
        with server.connect(dbname=lone_server.name) as admin:
            admin.execute("DROP EVENT TRIGGER no_control")
        eventually(lambda: proxy.log.count("AVAILABLE, READ_WRITE") > seen, timeout=60, what="its being watched")
        conn.execute("SELECT pg_sleep(4)")
        conn.execute("COMMIT")
        assert conn.execute("SELECT count(*) FROM written").fetchone() == (1,)
