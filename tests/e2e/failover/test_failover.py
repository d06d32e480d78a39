"""The primary is killed and its standby promoted while clients write: no connection, no commit is lost, none
doubled."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable

import pytest
from tests.e2e.failover.conftest import MakeProxy, Pair
from tests.e2e.failover.slots import assert_all_slots_free
from tests.e2e.failover.writers import Record, Writers, check_books
from tests.support.asyncclient import AsyncClient
from tests.support.dns import DNSServer
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess
from tests.support.slowdown import Slowdown

CLIENTS, DIRECT, POOL_SIZE = 200, 20, 20

PROMISED = 1.5
"""Seconds that the last client through the proxy may take longer to commit again than the last one that connects
directly, on a machine that does nothing else; times its slowdown where it does."""


def names(count: int, kind: str) -> list[str]:
    return [f"{kind}{number}{'s' if number % 2 else ''}" for number in range(count)]


def say(text: str) -> None:
    """For whoever runs `make failover`, which shows the output of tests that pass."""
    sys.stdout.write(text + "\n")


def report(title: str, record: Record, since: float) -> str:
    times = record.downtime(since)
    return (
        f"{title}: first commit {times[0]:.2f} s after the promotion, median client {statistics.median(times):.2f} s, "
        f"last {times[-1]:.2f} s; {record.lost} connections lost, {record.failed} of {len(record.fates)} transactions "
        f"not acknowledged {dict(record.errors)}"
    )


async def fail_over(
    pair: Pair, proxy: ProxyProcess, machine: Slowdown, direct_host: Callable[[], str], moved: Callable[[], None]
) -> None:
    async def direct() -> AsyncClient:
        return await AsyncClient.connect(pair.database.parameters | {"host": direct_host()})

    through_proxy = Writers(lambda: AsyncClient.connect(proxy.parameters), names(CLIENTS, "proxied"))
    directly = Writers(direct, names(DIRECT, "direct"), reconnect=True)
    idle = [await AsyncClient.connect(proxy.parameters) for _ in range(20)]
    for writers in (through_proxy, directly):
        await writers.start()
    for writers in (through_proxy, directly):
        await writers.all_wrote_after(time.monotonic())
    killed = time.monotonic()
    await asyncio.to_thread(pair.primary.kill)
    # As long as anybody takes to notice.
    await asyncio.sleep(1)
    await asyncio.to_thread(pair.standby.promote)
    moved()
    since = time.monotonic()
    for writers in (through_proxy, directly):
        await writers.all_wrote_after(since)
    for writers in (through_proxy, directly):
        await writers.stop()
    assert {(await client.query("SELECT 1")).tag for client in idle} == {"SELECT 1"}
    for client in idle:
        client.close()

    record = through_proxy.record
    say(report("through the proxy", record, since))
    say(report("directly", directly.record, since))
    downtime = record.downtime(since)
    assert len(downtime) == CLIENTS
    slowdown = machine.between(killed, since + downtime[-1])
    allowed = directly.record.downtime(since)[-1] + PROMISED * slowdown
    say(
        f"promised: at most {PROMISED} s later than directly, times {slowdown:.1f} for how slow the machine was: "
        f"{downtime[-1]:.2f} of {allowed:.2f} s"
    )
    assert downtime[-1] <= allowed
    assert record.lost == 0
    assert record.logins == CLIENTS
    # What was in flight when the primary died: at most one transaction for each server connection.
    assert record.failed <= POOL_SIZE
    assert set(record.errors) <= {"08006", "57P01", "57P02"}
    assert all("COMMIT" in hint for hint in record.hints)
    for each in (record, directly.record):
        check_books(each, pair.standby, pair.database.name)


@pytest.mark.timeout(300)
def test_a_list_of_endpoints(pair: Pair, proxy_for: MakeProxy, slowdown: Slowdown) -> None:
    settings = {"host": pair.primary.host, "endpoints": [pair.standby.host]}
    proxy = proxy_for(pair.database, settings, default_pool_size=POOL_SIZE, reserve_pool_size=0)
    asyncio.run(fail_over(pair, proxy, slowdown, writing_host(pair), lambda: None))
    assert f"the writer is {pair.standby.host}:{pair.standby.port}" in proxy.log
    assert_all_slots_free(proxy, on(pair), POOL_SIZE)


@pytest.mark.timeout(300)
def test_a_name_that_moves(pair: Pair, proxy_for: MakeProxy, dns: DNSServer, slowdown: Slowdown) -> None:
    dns.names["db.example.com"] = pair.primary.host
    proxy = proxy_for(pair.database, {"host": "db.example.com"}, default_pool_size=POOL_SIZE, dns_servers=[dns.address])

    def moved() -> None:
        dns.names["db.example.com"] = pair.standby.host

    asyncio.run(fail_over(pair, proxy, slowdown, lambda: dns.names["db.example.com"], moved))
    assert_all_slots_free(proxy, on(pair), POOL_SIZE)


@pytest.mark.timeout(300)
def test_a_primary_that_comes_back_is_not_the_writer(pair: Pair, proxy_for: MakeProxy) -> None:
    """Nobody has told it of its successor: it takes writes, and each of them would be lost."""
    settings = {"host": pair.primary.host, "endpoints": [pair.standby.host]}
    proxy = proxy_for(pair.database, settings)
    with proxy.connect() as conn:
        conn.execute("INSERT INTO written VALUES ('before', 1)")
        pair.primary.kill()
        pair.standby.promote()
        pair.primary.settings["synchronous_standby_names"] = ""
        pair.primary.start()
        for n in range(20):
            conn.execute("INSERT INTO written VALUES ('after', %s)", [n])
            conn.execute("SELECT pg_sleep(0.1)")
    with pair.standby.connect(dbname="app") as standby:
        assert standby.execute("SELECT count(*) FROM written WHERE client = 'after'").fetchone() == (20,)


def writing_host(pair: Pair) -> Callable[[], str]:
    """What a driver does that is given both hosts: it tries them in turn."""
    turn = 0

    def host() -> str:
        nonlocal turn
        if pair.primary.backend_pids():
            return pair.primary.host
        turn += 1
        return (pair.primary, pair.standby)[turn % 2].host

    return host


def on(pair: Pair) -> Database:
    return Database(pair.standby, pair.database.name, pair.database.user, pair.database.password)
