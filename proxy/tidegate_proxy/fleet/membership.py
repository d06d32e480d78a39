"""This process as a member of the fleet on one PostgreSQL server: it looks, publishes, takes and gives up."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.fleet import planner, queries
from tidegate_proxy.fleet.limit import FleetLimit
from tidegate_proxy.fleet.name import format_name
from tidegate_proxy.fleet.planner import Member, View
from tidegate_proxy.pool.planner import is_final, retry_delay
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.pool.sharing import Sharing
from tidegate_proxy.protocol import decode

logger = logging.getLogger(__name__)

_ANSWER_WITHIN = 5.0
_SAMPLE = 0.25
_LONGEST_RETRY = 1.0
_REFUSED_FOR = 10.0
"""Seconds for which a share does not grow beyond what the server allowed when it refused a connection."""
_OTHERS_SEEN = 5
"""Looks by which connections that are no member's must have been there: what a member has opened since it published its
number looks like another user's for a moment."""


class ControlPool(Pool):
    """The pool of one server connection that control queries run on."""

    lost: Callable[[], None] | None = None

    def server_lost(self, server: ServerConnection) -> None:
        """The control connection is gone."""
        super().server_lost(server)
        if self.lost is not None:
            self.lost()


class Place(Protocol):
    """What a membership needs of its fleet."""

    id: str
    address: str
    sharing: Sharing

    @property
    def percent(self) -> int:
        """The setting `max_connections_percent`."""

    def control_pool(self) -> ControlPool:
        """A new pool for the control connection."""

    @property
    def users(self) -> Sequence[str]:
        """The users that members log in as, as far as the configuration tells."""


class Membership:
    """Parameters: `target`, its name for messages; `place`."""

    def __init__(self, target: str, place: Place) -> None:
        self.target = target
        self.view: View | None = None
        # How often it has looked, in vain or not.
        self.looks = 0
        self.limit = FleetLimit(self._refused)
        self._place = place
        self._pool: ControlPool | None = None
        self._peaks: deque[tuple[float, int]] = deque()
        self._others: deque[int] = deque(maxlen=_OTHERS_SEEN)
        self._strays: deque[int] = deque(maxlen=_OTHERS_SEEN)
        self._refused_until = 0.0
        self._failures = 0
        self._hurry = asyncio.Event()
        self._looked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._stay())

    @property
    def others(self) -> int:
        """Connections that are no member's, as the share takes them into account."""
        return min(self._others, default=0)

    async def close(self) -> None:
        """Leave the fleet; nothing may be held any more."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._drop_pool()

    async def looked(self, looks: int) -> None:
        """Wait until it has looked so often."""
        while self.looks < looks:
            await self._looked.wait()

    async def renew(self) -> None:
        """Log in anew: the configuration has changed."""
        await self._drop_pool()

    async def _drop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.lost = None
            self._control_lost()
            await pool.close()

    async def _stay(self) -> None:
        while not self.limit.alone:
            try:
                await self._look()
                self._failures = 0
            except (ProxyError, TimeoutError, ValueError) as error:
                self._failed(error)
            except Exception as error:
                # Whatever it is, to be no member any more would be worse.
                logger.exception("fleet on %s: a fault of the proxy", self.target)
                self._failed(error)
            self.looks += 1
            self._looked.set()
            self._looked = asyncio.Event()
            await self._pause()

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        self.limit.frozen = True
        why = str(error) or f"no answer within {_ANSWER_WITHIN:g} s"
        if self.view is None and isinstance(error, ProxyError) and is_final(error.sqlstate):
            logger.warning(
                "fleet on %s: no control connection: %s; this process keeps to max_connections_percent by itself, "
                "whatever others do",
                self.target,
                why,
            )
            self.limit.give_up()
            self._open_more()
        elif self._failures == 2:
            # One may be the connection alone.
            logger.warning("fleet on %s: %s; no server connection is opened until that is over", self.target, why)

    async def _pause(self) -> None:
        """Wait until the next look, and see meanwhile how many connections could be used."""
        members = len(self.view.members) if self.view is not None else 1
        end = self._loop.time() + retry_delay(self._failures, _LONGEST_RETRY) if self._failures else None
        began = self._loop.time()
        while True:
            self._sample()
            hurried = self.limit.hungry or self.limit.excess > 0 or not self.limit.most
            until = end or began + planner.interval(members, hurried=hurried)
            left = until - self._loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(min(left, _SAMPLE)):
                    await self._hurry.wait()
            except TimeoutError:
                continue
            self._hurry.clear()
            return

    def _sample(self) -> None:
        now, demand = self._loop.time(), self.limit.demand
        while self._peaks and (self._peaks[-1][1] <= demand):
            self._peaks.pop()
        self._peaks.append((now, demand))
        while now - self._peaks[0][0] > planner.DEMAND_HELD:
            self._peaks.popleft()

    def _me(self) -> Member:
        """What is to be published now."""
        held = self.limit.used
        share = held if self.limit.frozen else max(self.limit.most or 0, held)
        return Member(self._place.id, share, held, self._peaks[0][1], self._place.address)

    async def _look(self) -> None:
        self._sample()
        me = self._me()
        answer = await self._ask(f"{queries.announce(me)}; {queries.look(self._place.users)}")
        view = queries.parse_look(answer.rows[0] if answer.rows else [], self._place.percent)
        if me not in view.members:
            raise ValueError(f"application_name of the control connection is not {format_name(me)!r} any more")
        if self.view is None:
            logger.info("fleet on %s: member %s of %d", self.target, me.id, len(view.members))
        elif len(self.view.members) != len(view.members):
            logger.info("fleet on %s: %d members", self.target, len(view.members))
        self.view = view
        self._others.append(view.others)
        self._strays.append(view.strays)
        share = planner.new_share(view, me.id, self.others, min(self._strays))
        if self.limit.frozen:
            # Published by now: what is held is what may be had.
            self.limit.frozen, self.limit.most = False, me.share
        if share < (self.limit.most or 0):
            self._shrink(share)
        elif share > me.share and self.limit.excess == 0 and self._loop.time() >= self._refused_until:
            await self._grow(me, share - me.share, view)
        # The member's part, so that `max_idle_connections_percent` means a part of that.
        self.limit.max_connections = (self.limit.most or 0) * 100 // self._place.percent
        if self.limit.hungry and not self.limit.full:
            self._open_more()

    def _shrink(self, share: int) -> None:
        logger.debug("fleet on %s: share %s -> %d", self.target, self.limit.most, share)
        self.limit.most = share
        self._place.sharing.close_excess(self.limit)
        self._hurry.set()

    async def _grow(self, me: Member, wanted: int, view: View) -> None:
        answer = await self._ask(queries.claim(me, wanted, view, self._place.users))
        more = int(answer.rows[-1][0] or b"") if answer.rows else 0
        # Refused meanwhile: the smaller share holds, and is published by the next look.
        if more and not self.limit.frozen and self._loop.time() >= self._refused_until:
            logger.debug("fleet on %s: share %s -> %d", self.target, self.limit.most, me.share + more)
            self.limit.most = me.share + more
            self._open_more()

    def _open_more(self) -> None:
        for pool in list(self.limit.pools):
            self._place.sharing.freed(pool)

    async def _ask(self, sql: str) -> InternalQuery:
        if self._pool is None:
            self._pool = self._place.control_pool()
            self._pool.lost = self._control_lost
        async with asyncio.timeout(_ANSWER_WITHIN):
            answer = await self._pool.ask(sql)
        if answer.error is not None:
            raise decode.error_from_fields(answer.error)
        return answer

    def _control_lost(self) -> None:
        # Others take this member for dead: it must not open what they may be opening by now.
        self.limit.frozen = True
        self._hurry.set()

    def _refused(self) -> None:
        """The server has no room (53300): what is held now is all that there is."""
        first = self._loop.time() >= self._refused_until
        self._refused_until = self._loop.time() + _REFUSED_FOR
        if not self.limit.frozen:
            share = self.limit.most or 0
            self.limit.most = min(share, self.limit.used)
            if first:
                logger.warning(
                    "fleet on %s: the server has no room for another connection: share %d -> %d, for %g s at least",
                    self.target,
                    share,
                    self.limit.most,
                    _REFUSED_FOR,
                )
        self._hurry.set()
