"""Every proxy behind a load balancer is replaced under load, and no invocation of any function fails."""

from __future__ import annotations

import asyncio
import re
import signal
from typing import Any

from tests.e2e.drain.balancer import Balancer, Target
from tests.lambda_layer.helpers import Context
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy

import tidegate
from tidegate.connection import AsyncConnection

FUNCTIONS = 200
_HTTP = re.compile(r"HTTP .* port (\d+)")


async def work(conn: AsyncConnection, function: int) -> None:
    await conn.execute("INSERT INTO work VALUES (%s)", [function])


async def invoke_until(stopped: asyncio.Event, db: tidegate.AsyncDatabase, function: int) -> int:
    """One execution environment: an invocation after the other. Returns how many there were."""
    count = 0
    while not stopped.is_set():
        async with db.invocation(Context()):
            await db.transaction(work, function)
        count += 1
        await asyncio.sleep(0.2)
    return count


def started(start_proxy: StartProxy) -> tuple[ProxyProcess, Target]:
    proxy = start_proxy(http_port=0, drain_delay=2, default_pool_size=10)
    found = _HTTP.search(proxy.log)
    assert found is not None
    return proxy, Target(proxy.port, int(found[1]))


async def replace_all(start_proxy: StartProxy, database: Database) -> tuple[int, int]:
    """Returns how many invocations there were, and how many proxies were replaced."""
    stopped = asyncio.Event()
    async with Balancer() as balancer:
        running = [await asyncio.to_thread(started, start_proxy) for _ in range(2)]
        balancer.targets = [target for _, target in running]
        await balancer.until_ready(*balancer.targets)
        settings: dict[str, Any] = {**database.parameters, "sslmode": "disable", "port": balancer.port}
        functions = [tidegate.connect_async(**settings) for _ in range(FUNCTIONS)]
        environments = [asyncio.create_task(invoke_until(stopped, db, number)) for number, db in enumerate(functions)]
        try:
            for old, target in running:
                new, successor = await asyncio.to_thread(started, start_proxy)
                balancer.targets.append(successor)
                await balancer.until_ready(*balancer.targets)
                old.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(old.process.wait, 60) == 0
                balancer.targets.remove(target)
                assert new.process.poll() is None
            stopped.set()
            counts = await asyncio.gather(*environments)
        finally:
            for task in environments:
                task.cancel()
            await asyncio.gather(*environments, return_exceptions=True)
            for db in functions:
                db.close()
    return sum(counts), len(running)


def test_no_invocation_fails_while_every_proxy_is_replaced(start_proxy: StartProxy, database: Database) -> None:
    with database.server.connect(dbname=database.name) as admin:
        admin.execute("CREATE TABLE work (function int)")
        admin.execute(f'GRANT ALL ON work TO "{database.user}"')
        invocations, replaced = asyncio.run(replace_all(start_proxy, database))
        assert replaced == 2
        found = admin.execute("SELECT count(*), count(DISTINCT function) FROM work").fetchone()
    assert found == (invocations, FUNCTIONS)
