"""Who gets a place under a shared limit: real pools and their sharing, on server connections that open at once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.transports import TransportBase

from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.fleet.limit import FleetLimit
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.pool.sharing import Sharing, TargetLimit
from tidegate_proxy.protocol.login_server import Welcome
from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.settings.effective import pool_limits
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.registry import access


class _Transport(TransportBase):
    def __init__(self, server: ServerConnection) -> None:
        self._server = server
        self._open = True

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        if self._open:
            self._open = False
            asyncio.get_running_loop().call_soon(self._server.connection_lost, None)

    abort = close


class _Client:
    """Takes the server connection that it waits for, until the pool's `release`."""

    def __init__(self, pool: QuickPool) -> None:
        self._pool = pool

    def server_granted(self, server: ServerConnection) -> None:
        self._pool.lent.append(server)

    def borrow_failed(self, error: ProxyError) -> None:
        raise AssertionError(error)


class _Cluster:
    """Servers of which nothing needs to be known."""

    target = None

    def join(self, *_: object) -> _Cluster:
        return self

    def leave(self) -> None:
        pass


class QuickPool(Pool):
    """A pool whose server connections open without a server. `lent`: those that clients use."""

    def __init__(self, name: str, sharing: Sharing, **sizes: int) -> None:
        database = DatabaseSettings(host="127.0.0.1")
        super().__init__(
            name,
            "user",
            limits=pool_limits(Settings(databases={"*": database}, **cast(Any, sizes)), database, "user"),
            sharing=sharing,
            asks_always=False,
            connector=cast(Any, _Connector),
            cluster=cast(Cluster, _Cluster()),
            access=access(database),
            counts=PoolCounts(),
            client_lost=lambda _: None,
            defaults_changed=lambda: None,
        )
        self.lent: deque[ServerConnection] = deque()

    async def _connect(self, opening: Awaitable[tuple[ServerConnection, Welcome]]) -> tuple[ServerConnection, Welcome]:
        cast(Any, opening).close()
        server = ServerConnection(self, 1, b"key!", self._loop.time())
        server.connection_made(cast(asyncio.Transport, _Transport(server)))
        return server, cast(Welcome, None)

    def come(self, clients: int, since: float = 0.0) -> None:
        """So many clients want a server connection, and those who have to wait have done so for `since` seconds."""
        for _ in range(clients):
            client = _Client(self)
            server = self.acquire(client)
            if server is not None:
                self.lent.append(server)
            elif client in self._waiting:
                until = self._waiting[client][1]
                self._waiting[client] = (self._loop.time() - since, until)

    def release(self) -> None:
        """The client that has had its server connection for longest needs it no more."""
        server = self.lent.popleft()
        if not self.put_back(server):
            self.server_released(server)


class _Connector:
    uses_tls = False


async def settled() -> None:
    """What is being opened and closed is done."""
    for _ in range(8):
        await asyncio.sleep(0)


def sharing_pools(most: int, *names: str, sharing: Sharing | None = None, **sizes: int) -> list[QuickPool]:
    """Pools with the same `max_db_connections`."""
    sharing = sharing or Sharing(100, None)
    pools = [QuickPool(name, sharing, **sizes) for name in names]
    for pool in pools:
        sharing.join(pool, [("database", most)], target="server")
        # Of what the server allows, nothing is known, and nothing needs to be.
        sharing.target_of(pool).told(None, 0.0, 100)
    return pools


async def end(pools: list[QuickPool]) -> None:
    """Nobody wants anything any more."""
    for pool in pools:
        for waiter in list(pool.waiting):
            pool.give_up(waiter)
        await pool.close()


def opened(pools: list[QuickPool]) -> int:
    """How many server connections have been opened until now."""
    return sum(pool.counts.servers_opened for pool in pools)


def test_a_place_that_is_given_up_goes_to_the_pool_that_it_is_given_up_for() -> None:
    async def run() -> None:
        hog, newcomer = pools = sharing_pools(10, "hog", "newcomer", default_pool_size=20)
        hog.come(10)
        await settled()
        hog.come(200, since=20)
        newcomer.come(30)
        await settled()
        assert (hog.held, newcomer.held) == (10, 0)
        # All ten are free once: half of them move, and each of those is opened once.
        for _ in range(10):
            hog.release()
            await settled()
        assert (hog.held, newcomer.held) == (5, 5)
        assert opened(pools) == 15
        await end(pools)

    asyncio.run(run())


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(4, 15),
    ages=st.lists(st.integers(0, 60), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_pools_with_long_queues_come_to_equal_parts_and_no_connection_moves_twice(
    limit: int, ages: list[int], seed: int
) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        names = [f"pool {number}" for number in range(len(ages))]
        pools = sharing_pools(limit, *names, default_pool_size=20)
        # Some have what there is, and then all want more.
        for _ in range(limit):
            chance.choice(pools).come(1)
        await settled()
        assert opened(pools) == limit
        for pool, age in zip(pools, ages, strict=True):
            pool.come(200, since=age)
        await settled()
        for _ in range(8 * limit):
            chance.choice([pool for pool in pools if pool.lent]).release()
            await settled()
            assert sum(pool.held for pool in pools) == limit
        part = limit // len(pools)
        # Whoever holds more than its part gives up as soon as one of its connections is free.
        for pool in pools:
            for _ in range(len(pool.lent)):
                pool.release()
                await settled()
        assert min(pool.held for pool in pools) >= part
        assert opened(pools) <= 2 * limit
        await end(pools)

    asyncio.run(run())


def test_of_several_claimants_one_that_has_its_part_does_not_stand_before_one_that_has_nothing() -> None:
    async def run() -> None:
        most, more, none = pools = sharing_pools(10, "most", "more", "none", default_pool_size=20)
        most.come(6)
        more.come(4)
        await settled()
        most.come(50, since=20)
        more.come(50, since=30)
        none.come(5)
        await settled()
        most.release()
        await settled()
        assert [pool.held for pool in pools] == [5, 4, 1]
        more.release()
        await settled()
        assert [pool.held for pool in pools] == [5, 3, 2]
        await end(pools)

    asyncio.run(run())


def test_nothing_is_closed_for_a_pool_that_could_not_use_the_place() -> None:
    async def run() -> None:
        sharing = Sharing(100, None)
        hog, claimant, other = pools = sharing_pools(10, "hog", "claimant", "other", sharing=sharing)
        # The same user's pools, of two servers; the claimant's is full.
        sharing.join(hog, [("user", 4)], target="one")
        sharing.join(claimant, [("user", 4)], target="two")
        sharing.join(other, [], target="two")
        sharing.target_of(hog).told(None, 0.0, 100)
        sharing.target_of(other).told([[b"3", b"0", b"0"]], 0.0, 100)
        hog.come(4)
        other.come(2)
        await settled()
        hog.come(20, since=20)
        claimant.come(3)
        await settled()
        for _ in range(6):
            hog.release()
            await settled()
        assert (hog.held, claimant.held, other.held) == (4, 0, 2)
        assert opened(pools) == 6
        other.release()
        await settled()
        hog.release()
        await settled()
        assert (hog.held, claimant.held) == (3, 1)
        await end(pools)

    asyncio.run(run())


class _SmallShare(TargetLimit):
    """As in a fleet: what is more than the share is closed."""

    @property
    def excess(self) -> int:
        return max(0, self.used - (self.most or 0))


def test_when_the_last_that_was_too_many_is_closed_idle_ones_are_given_to_clients_again() -> None:
    async def run() -> None:
        sharing = Sharing(100, None, lambda _: _SmallShare())
        (pool,) = sharing_pools(0, "pool", sharing=sharing, default_pool_size=20)
        limit = sharing.target_of(pool)
        limit.most = 12
        pool.come(12)
        await settled()
        limit.most = 10
        sharing.close_excess(limit)
        for _ in range(12):
            pool.release()
            await settled()
        assert (pool.held, len(pool.idle), pool.contended) == (10, 10, False)
        pool.come(1)
        assert (len(pool.lent), pool.waiters) == (1, 0)
        await end([pool])

    asyncio.run(run())


def fleet_pools(share: int, *names: str, **sizes: int) -> tuple[FleetLimit, list[QuickPool]]:
    """Pools that share what a fleet allows this member."""
    limit = FleetLimit(lambda: None)
    limit.frozen, limit.most = False, share
    sharing = Sharing(100, None, lambda _: limit)
    pools = [QuickPool(name, sharing, **sizes) for name in names]
    for pool in pools:
        sharing.join(pool, [], target="server")
    return limit, pools


def test_a_member_that_nobody_knows_of_keeps_what_it_has_and_opens_nothing() -> None:
    async def run() -> None:
        limit, pools = fleet_pools(4, "idle", "claimant")
        idle, claimant = pools
        idle.come(4)
        await settled()
        idle.release()
        limit.frozen = True
        claimant.come(2)
        await settled()
        assert (idle.held, claimant.held, len(idle.idle)) == (4, 0, 1)
        # Nor is anything closed that becomes free now: nobody could have its place.
        for _ in range(3):
            idle.release()
            idle.sweep()
            claimant.sweep()
            await settled()
        assert (idle.held, claimant.held, opened(pools)) == (4, 0, 4)
        limit.frozen = False
        claimant.sweep()
        await settled()
        assert (idle.held, claimant.held) == (2, 2)
        await end(pools)

    asyncio.run(run())


def test_nothing_is_closed_under_one_limit_where_another_one_is_closed_for_now() -> None:
    async def run() -> None:
        limit, pools = fleet_pools(9, "idle", "busy", "claimant")
        idle, busy, claimant = pools
        for pool in pools:
            pool._sharing.join(pool, [("database", 4)], target="server")
        idle.come(2)
        busy.come(2)
        await settled()
        idle.release()
        limit.frozen = True
        claimant.come(2)
        busy.release()
        await settled()
        assert [pool.held for pool in pools] == [2, 2, 0]
        await end(pools)

    asyncio.run(run())


def test_minimums_that_are_more_than_there_is_come_to_rest() -> None:
    async def run() -> None:
        pools = sharing_pools(10, "one", "other", min_pool_size=8)
        for pool in pools:
            pool.clients = 1
        for _ in range(20):
            for pool in pools:
                pool.sweep()
                await settled()
        assert opened(pools) == 10
        assert not any(pool.contended for pool in pools)
        await end(pools)

    asyncio.run(run())


def test_for_each_client_that_waits_one_idle_connection_is_closed_and_none_for_the_minimum() -> None:
    async def run() -> None:
        one, other = pools = sharing_pools(8, "one", "other", min_pool_size=8)
        one.clients = other.clients = 1
        one.sweep()
        await settled()
        other.come(3)
        await settled()
        assert (one.held, other.held, len(other.lent)) == (5, 3, 3)
        await end(pools)

    asyncio.run(run())


def test_a_minimum_above_the_share_is_no_reason_to_look_at_the_fleet_more_often() -> None:
    async def run() -> None:
        limit, pools = fleet_pools(3, "pool", min_pool_size=8)
        pools[0].clients = 1
        pools[0].sweep()
        await settled()
        assert (pools[0].held, limit.hungry) == (3, False)
        pools[0].come(4)
        assert limit.hungry
        await end(pools)

    asyncio.run(run())


def test_under_a_limit_that_was_lowered_nobody_opens_until_there_is_room() -> None:
    async def run() -> None:
        one, other = pools = sharing_pools(8, "one", "other")
        one.come(8)
        await settled()
        for _ in range(6):
            one.release()
        for pool in pools:
            pool._sharing.join(pool, [("database", 4)], target="server")
        other.come(1)
        await settled()
        assert (one.held, other.held) == (3, 1)
        await end(pools)

    asyncio.run(run())
