"""Limits that several pools share: a database's, a user's, and what a PostgreSQL server allows.

A pool asks before it opens a server connection. Where a limit is reached, an idle connection of another pool is closed
for it; where there is none, its claim is kept, and the pools that have connections give one up as the planner says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

from tidegate_proxy.pool import planner

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.pool.opening import OpeningPool

logger = logging.getLogger(__name__)

ASK_FOR_LIMITS = (
    "SELECT pg_catalog.current_setting('max_connections'),"
    " pg_catalog.current_setting('superuser_reserved_connections'),"
    # PostgreSQL 16 and later.
    " COALESCE(pg_catalog.current_setting('reserved_connections', true), '0')"
)


class SharedLimit:
    """One limit and the pools that share it.

    `most` is None for no limit. `active`: every pool that has a server connection or waits for one is among these; of
    thousands of users few do at a time.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.pools: set[OpeningPool] = set()
        self.active: set[OpeningPool] = set()
        self.claims: dict[OpeningPool, None] = {}

    @property
    def used(self) -> int:
        """How many server connections there are and are being opened."""
        return sum(pool.held for pool in self.active)

    @property
    def closed_for_now(self) -> bool:
        """Whether none may be opened whatever is closed for it: there is nothing to do but wait."""
        return False

    @property
    def full(self) -> bool:
        """Whether no connection may be opened now."""
        return self.closed_for_now or (self.most is not None and self.used >= self.most)

    @property
    def contended(self) -> bool:
        """Whether a connection that becomes free may be somebody else's, or must be closed."""
        return bool(self.claims) or self.excess > 0

    @property
    def excess(self) -> int:
        """How many connections must be closed as soon as they are free: none, where the limit is only for new ones."""
        return 0


class TargetLimit(SharedLimit):
    """What one PostgreSQL server allows. Until a first connection has told, none is opened beside it."""

    def __init__(self) -> None:
        super().__init__(None)
        self.max_connections = 0
        self._reserved = 0
        self._read_at: float | None = None

    @property
    def closed_for_now(self) -> bool:
        """Whether a connection is being opened that is going to tell."""
        return self._read_at is None and any(pool.opening for pool in self.active)

    def must_ask(self, now: float) -> bool:
        """Whether the next connection shall ask the server what it allows; `now` in seconds."""
        return self._read_at is None or now - self._read_at >= planner.RE_READ

    def doubt(self) -> None:
        """The server has refused a connection: what is known may be out of date."""
        if self._read_at is not None:
            self._read_at = float("-inf")

    def told(self, rows: list[list[bytes | None]] | None, now: float, percent: int) -> None:
        """What the server has answered to ASK_FOR_LIMITS; None if it has not, then there is no limit."""
        self._read_at = now
        try:
            self.max_connections, superuser, others = (int(value or 0) for value in (rows or [[]])[0])
        except ValueError:
            self.most = None
            return
        # The control connection is none of a pool's.
        self._reserved = superuser + others + 1
        self.apply(percent)

    def apply(self, percent: int) -> None:
        """`max_connections_percent` has this value."""
        if self.max_connections:
            self.most = planner.budget(max_connections=self.max_connections, reserved=self._reserved, percent=percent)


class Sharing:
    """All shared limits. Pools join when they are made, and leave when they are given up.

    Parameters: `percent` and `idle_percent`, see `set_percent`; `target_limit`, which makes the limit of a server.
    """

    def __init__(
        self,
        percent: int,
        idle_percent: int | None,
        target_limit: Callable[[Hashable], TargetLimit] = lambda _: TargetLimit(),
    ) -> None:
        self._target_limit = target_limit
        self._limits: dict[Hashable, SharedLimit] = {}
        # Of each pool the limits that it shares: there may be thousands of pools, each with one of its own.
        self._of: dict[OpeningPool, dict[Hashable, SharedLimit]] = {}
        self.set_percent(percent, idle_percent)

    def set_percent(self, percent: int, idle_percent: int | None) -> None:
        """`max_connections_percent` and `max_idle_connections_percent`, None for its default."""
        self.percent = percent
        self.idle_percent = percent // 2 if idle_percent is None else idle_percent
        for limit in self._limits.values():
            if isinstance(limit, TargetLimit):
                limit.apply(percent)

    def join(self, pool: OpeningPool, limits: Iterable[tuple[Hashable, int]], target: Hashable) -> None:
        """A pool with these limits, each with a key that tells which it is, and 0 for none; `target` tells the server.

        Joining again replaces the limits.
        """
        shared: dict[Hashable, SharedLimit] = {}
        for key, most in limits:
            if most:
                shared[key] = self._limits.setdefault(key, SharedLimit(most))
                shared[key].most = most
        if target not in self._limits:
            self._limits[target] = self._target_limit(target)
        # Last: nobody's idle connection is closed for a pool whose own limits are reached.
        shared[target] = self._limits[target]
        for limit in shared.values():
            limit.pools.add(pool)
        self._leave(pool, keep=shared)
        self._of[pool] = shared
        self.opens(pool)
        pool.contended = any(limit.contended for limit in shared.values())

    def leave(self, pool: OpeningPool) -> None:
        """The pool is no more."""
        self._leave(pool, keep={})

    def _leave(self, pool: OpeningPool, keep: Mapping[Hashable, SharedLimit]) -> None:
        for key, limit in self._of.pop(pool, {}).items():
            if key not in keep:
                limit.pools.discard(pool)
                limit.active.discard(pool)
                self._unclaim(limit, pool)
                if not limit.pools:
                    del self._limits[key]

    def of(self, pool: OpeningPool) -> Collection[SharedLimit]:
        """The limits that the pool shares."""
        return self._of.get(pool, {}).values()

    def target_of(self, pool: OpeningPool) -> TargetLimit:
        """The limit of the pool's server; for a pool that has left while it was opening a connection, nobody's."""
        return next((limit for limit in self.of(pool) if isinstance(limit, TargetLimit)), TargetLimit())

    def is_full(self, pool: OpeningPool) -> bool:
        """Whether a limit is reached that the pool shares."""
        return any(limit.full for limit in self.of(pool))

    def opens(self, pool: OpeningPool) -> None:
        """The pool opens a server connection, or waits for one."""
        for limit in self.of(pool):
            limit.active.add(pool)

    def admit(self, pool: OpeningPool, *, awaited: bool) -> bool:
        """Whether the pool may open one more.

        Parameters: `awaited`, a client waits for it. For that one an idle connection of another pool is closed, or the
        pool is told by `open_more` when there is room. What is only for `min_pool_size` takes nothing from anybody:
        pools whose minimums are more than there is would otherwise close each other's connections for ever.
        """
        limits = self.of(pool)
        self.opens(pool)
        for limit in limits:
            # First of all: nothing is closed under one limit where another one does not let it be opened.
            if limit.full and not (awaited and self._may_evict(limit, pool)):
                if awaited:
                    self._claim(limit, pool)
                return False
        for limit in limits:
            # More than once where the limit has been lowered.
            while limit.full:
                if not self._evict(limit, pool):
                    self._claim(limit, pool)
                    return False
        for limit in limits:
            self._unclaim(limit, pool)
        return True

    def _claim(self, limit: SharedLimit, pool: OpeningPool) -> None:
        limit.claims.setdefault(pool)
        # Of a claim that is not the first, all have been told.
        if len(limit.claims) == 1:
            for other in limit.pools:
                other.contended = True

    def withdraw(self, pool: OpeningPool) -> None:
        """The pool needs no more than it has."""
        for limit in self.of(pool):
            self._unclaim(limit, pool)

    def freed(self, pool: OpeningPool) -> None:
        """A connection of the pool is gone, or a limit has been raised: whoever has waited longest for it comes
        first."""
        for limit in self.of(pool):
            for claimant in sorted(limit.claims, key=lambda other: other.waits_since or 0):
                if limit.full:
                    break
                claimant.open_more()
            # The last that was too many may have been closed.
            if pool.contended and not limit.contended:
                self._settle(limit)

    def must_close(self, pool: OpeningPool) -> bool:
        """Whether a free server connection of the pool is one too many, whoever waits."""
        return any(limit.excess for limit in self.of(pool))

    def yields_to(self, pool: OpeningPool, server: ServerConnection, now: float) -> OpeningPool | None:
        """The pool that shall open a connection in place of this free one; None if it stays where it is.

        Of those that are entitled to it, it is who has waited longest and would open one at once: nothing is closed for
        whoever could not use the place, since the pool that gave it up would take it back.
        """
        for limit in self.of(pool):
            claims = [(other.waits_since, other) for other in limit.claims if other is not pool]
            if not claims or not limit.full:
                continue
            pools = sum(1 for other in limit.active if other.in_demand)
            entitled = [
                (since, claimant)
                for since, claimant in claims
                if since is not None
                and planner.must_yield(
                    limit=limit.most or 0,
                    pools=pools,
                    held=pool.held,
                    waits_since=pool.waits_since,
                    claimant_holds=claimant.held,
                    claimant_waits_since=since,
                    open_for=now - server.created,
                )
            ]
            for _, claimant in sorted(entitled, key=lambda claim: claim[0]):
                if claimant.wanted and self._has_room(claimant, without=pool):
                    return claimant
        return None

    def _has_room(self, claimant: OpeningPool, without: OpeningPool) -> bool:
        return all(
            not limit.full or (without in limit.pools and not limit.closed_for_now) or self._may_evict(limit, claimant)
            for limit in self.of(claimant)
        )

    def close_idle(self, now: float, idle_after: float) -> None:
        """Close what has been idle for so many seconds and is beyond `max_idle_connections_percent`."""
        for limit in self._limits.values():
            limit.active = {pool for pool in limit.active if pool.held or pool.waiters}
            if not isinstance(limit, TargetLimit) or not limit.max_connections:
                continue
            idle = sorted(
                (
                    (server.idle_since, pool)
                    for pool in limit.active
                    for server in pool.idle
                    if now - server.idle_since >= idle_after
                ),
                key=lambda pair: pair[0],
            )
            surplus = planner.surplus_idle(
                idle=len(idle), max_connections=limit.max_connections, percent=self.idle_percent
            )
            for _, pool in idle[:surplus]:
                pool.close_longest_idle()

    def close_excess(self, limit: SharedLimit) -> None:
        """Close what is more than the limit allows: idle connections now, the others when they are free."""
        while limit.excess:
            holders = [pool for pool in limit.active if pool.idle]
            if not holders:
                break
            min(holders, key=lambda pool: pool.idle[0].idle_since).close_longest_idle()
        self._settle(limit)

    def _may_evict(self, limit: SharedLimit, pool: OpeningPool) -> bool:
        return not limit.closed_for_now and any(other is not pool and other.idle for other in limit.active)

    def _evict(self, limit: SharedLimit, pool: OpeningPool) -> bool:
        holders = [other for other in limit.active if other is not pool and other.idle]
        if not holders:
            return False
        longest = min(holders, key=lambda other: other.idle[0].idle_since)
        logger.debug("%s: an idle server connection is closed for %s", longest.name, pool.name)
        longest.close_longest_idle()
        return True

    def _unclaim(self, limit: SharedLimit, pool: OpeningPool) -> None:
        if limit.claims.pop(pool, 0) is None and not limit.claims:
            self._settle(limit)

    def _settle(self, limit: SharedLimit) -> None:
        # To find out may mean to count all connections of a server: once for each limit, not for each of its pools.
        known = {limit: limit.contended}
        for pool in limit.pools:
            for other in self.of(pool):
                if other not in known:
                    known[other] = other.contended
            pool.contended = any(known[other] for other in self.of(pool))
