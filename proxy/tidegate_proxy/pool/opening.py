"""The server connections of a pool: who waits for one, when more are opened, what becomes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from tidegate_proxy import events
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.credentials.provider import CredentialProvider
from tidegate_proxy.errors import BorrowTimeoutError, ProxyError, QueueFullError, ShutdownError
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.pool import planner, timeouts
from tidegate_proxy.pool.prepare import prepare
from tidegate_proxy.pool.route import Route
from tidegate_proxy.pool.sharing import Sharing, TargetLimit
from tidegate_proxy.pool.sharing_pool import SharingPool, Waiter
from tidegate_proxy.protocol.login_server import Welcome
from tidegate_proxy.settings.effective import PoolLimits
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.planner import Access

logger = logging.getLogger(__name__)


class _FutureWaiter:
    def __init__(self, release: Callable[[ServerConnection], None]) -> None:
        self.future: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self._release = release

    def server_granted(self, server: ServerConnection) -> None:
        if self.future.cancelled():
            self._release(server)
        else:
            self.future.set_result(server)

    def borrow_failed(self, error: ProxyError) -> None:
        if not self.future.cancelled():
            self.future.set_exception(error)


class OpeningPool(SharingPool):
    """The half of a pool that has to do with server connections and not with sessions. Parameters: see Pool."""

    def __init__(
        self,
        database: str,
        user: str,
        *,
        limits: PoolLimits,
        sharing: Sharing,
        connector: Connector,
        cluster: Cluster,
        access: Access,
        counts: PoolCounts,
    ) -> None:
        super().__init__()
        self.database = database
        self.user = user
        self.name = f"{database}/{user}"
        self._sharing = sharing
        self._connector = connector
        self._route = Route(cluster, access, connector, self._targets_changed)
        self.counts = counts
        self._count_by_target()
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._last_error: ProxyError | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._next_timeout: asyncio.TimerHandle | None = None
        self.limits = limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._query_timeouts = timeouts.QueryTimeouts()
        self.now = self._loop.time()

    @property
    def limits(self) -> PoolLimits:
        """Sizes and times; they may be replaced at any time."""
        return self._limits

    @limits.setter
    def limits(self, limits: PoolLimits) -> None:
        self._limits = limits
        self.max_prepared = limits.max_prepared_statements
        self.reuse_after = limits.reuse_unnamed_statements_after
        self.pool_size = limits.pool_size
        self.max_waiting = limits.max_waiting_clients
        self.borrow_timeout = limits.connection_borrow_timeout
        if self._next_timeout is not None:
            # Whoever comes from now on may have less time than those who are here.
            self._wake_at(min(self._next_timeout.when(), self._loop.time() + self.borrow_timeout))

    # Borrowing

    def acquire(self, waiter: Waiter) -> ServerConnection | None:
        """A server connection now, or None: then `server_granted` or `borrow_failed` of `waiter` is called later."""
        # What others wait for is given up when it comes back, not while it is idle.
        may_take = not (self._closed or self._paused or self._waiting)
        server = self.take_idle() if may_take else None
        if server is not None:
            return server
        if 0 < self.max_waiting <= len(self._waiting):
            self._loop.call_soon(waiter.borrow_failed, QueueFullError(len(self._waiting)))
            return None
        now = self._loop.time()
        until = now + self.borrow_timeout
        self._waiting[waiter] = (now, until)
        # One timer for all: most waits are over long before.
        if self._next_timeout is None or until < self._next_timeout.when():
            self._wake_at(until)
        # The reserve is for those who wait for longer: the sweep sees to that.
        if self.held < self.pool_size:
            self.open_more()
        return None

    def _wake_at(self, when: float) -> None:
        if self._next_timeout is not None:
            self._next_timeout.cancel()
        self._next_timeout = self._loop.call_at(when, self._end_waits)

    def _end_waits(self) -> None:
        self._next_timeout = None
        now = self._loop.time()
        for waiter in [waiter for waiter, (_, until) in self._waiting.items() if until <= now]:
            if waiter in self._waiting:
                self._timed_out(waiter)
        if self._waiting:
            self._wake_at(min(until for _, until in self._waiting.values()))

    def give_up(self, waiter: Waiter) -> None:
        """`waiter` waits no longer."""
        if self._waiting.pop(waiter, None) is not None:
            self._no_longer_waiting()

    def _no_longer_waiting(self) -> None:
        if self._contended and not self._waiting:
            self._sharing.withdraw(self)

    def _timed_out(self, waiter: Waiter) -> None:
        del self._waiting[waiter]
        self._no_longer_waiting()
        self.counts.borrow_timeouts += 1
        why = "The database is paused (PAUSE on the admin console)." if self._paused else self._last_error
        waiter.borrow_failed(
            BorrowTimeoutError(
                'no server connection became free within "connection_borrow_timeout" '
                f"({self.limits.connection_borrow_timeout:g} s)",
                detail=str(why) if why is not None else None,
            )
        )

    def server_released(self, server: ServerConnection) -> None:
        """A clean connection comes back: to whoever waits longest, else to the idle ones."""
        if not server.is_reusable():
            self._retire(server)
        elif not self.put_back(server):
            if self._closed or self.close_needed(server):
                self._retire(server)
                return
            if self._contended and self._gives_up(server):
                return
            if not self._waiting:
                server.idle_since = self.now
                self.idle.append(server)
            else:
                waiter = next(iter(self._waiting))
                del self._waiting[waiter]
                self._no_longer_waiting()
                waiter.server_granted(server)

    def _gives_up(self, server: ServerConnection) -> bool:
        if self._sharing.must_close(self):
            claimant = None
        else:
            claimant = self._sharing.yields_to(self, server, self._loop.time())
            if claimant is None:
                return False
        self._servers.discard(server)
        server.close()
        # It has been closed for this one, although others, and this pool too, may have waited for longer.
        if claimant is not None:
            claimant.open_more()
        self._sharing.freed(self)
        self.open_more()
        return True

    def _retire(self, server: ServerConnection) -> None:
        self._servers.discard(server)
        server.close()
        self.open_more()
        self._sharing.freed(self)

    def _retire_idle(self, servers: Iterable[ServerConnection]) -> None:
        for server in [*servers]:
            # Whoever gets the place of one may have closed the next one for another place.
            if server in self.idle:
                self.idle.remove(server)
                self._retire(server)

    def server_lost(self, server: ServerConnection) -> None:
        """A server connection is gone."""
        self.counts.servers_closed += 1
        self.counts.server_lifetime += self._loop.time() - server.created
        self._servers.discard(server)
        if server in self.idle:
            self.idle.remove(server)
        self._query_timeouts.forget(server)
        self._route.forget(server)
        if not self._closed:
            self.open_more()
        self._sharing.freed(self)

    async def ask(self, sql: str) -> InternalQuery:
        """Run a query of the proxy's own on a server connection of the pool, and return what came of it.

        Raises: what `acquire` may fail with; ProxyError if the connection is lost meanwhile.
        """
        server = await self.borrow()
        try:
            result = await server.run(sql)
        except BaseException:
            # It may still answer: nobody else shall get that.
            server.fail(ShutdownError())
            raise
        self.server_released(server)
        return result

    async def borrow(self) -> ServerConnection:
        """A server connection for the proxy itself, to be given to `server_released`. Raises: as `acquire`."""
        waiter = _FutureWaiter(self.server_released)
        server = self.acquire(waiter)
        if server is not None:
            return server
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise

    def _give_back(self, waiter: _FutureWaiter) -> None:
        self.give_up(waiter)
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.server_released(waiter.future.result())

    # Opening

    @property
    def wanted(self) -> int:
        """How many more it would open at once, were it not for limits that it shares."""
        if self._retry is not None or self._closed or self._paused:
            return 0
        limits, since = self.limits, self.waits_since
        return planner.connections_to_open(
            wanted=len(self._waiting),
            opening=self._opening,
            open_now=len(self._servers),
            failing=self._failures > 0,
            minimum=limits.min_pool_size if self.clients else 0,
            limit=planner.pool_limit(
                size=limits.pool_size,
                reserve=limits.reserve_pool_size,
                reserve_after=limits.reserve_pool_timeout,
                waited=0 if since is None else self._loop.time() - since,
            ),
        )

    def open_more(self) -> None:
        """Open as many server connections as are needed and allowed."""
        for _ in range(self.wanted):
            if not self._sharing.admit(self, awaited=len(self._waiting) > self._opening):
                break
            self._opening += 1
            self._start(self._open())

    async def _open(self) -> None:
        generation = self.generation
        try:
            server, _ = await self._connect(self._route.attempt(self, self._connector))
        except ProxyError as error:
            self._opening -= 1
            self._open_failed(error)
            return
        except asyncio.CancelledError:
            self._opening -= 1
            # There is another server to go to, unless this is the end.
            self._loop.call_soon(self.open_more)
            raise
        except Exception:
            # Whatever it is, it may be the same the next time.
            logger.exception("%s: a fault of the proxy", self.name)
            self._opening -= 1
            self._open_failed(ProxyError())
            return
        self._opening -= 1
        self._opened(server, generation)

    async def open_as(self, credentials: CredentialProvider, *, keep: bool) -> bool:
        """Open a server connection with other credentials than usual, to see whether they are good.

        Parameters: `keep`, use it like any other if there is room for it; else it is closed.
        Returns: whether the server has asked for them; if not, it is closed in any case.
        Raises: ProxyError, as `Connector.connect`.
        """
        generation = self.generation
        self._opening += 1
        self._sharing.opens(self)
        try:
            server, welcome = await self._connect(self._route.connect(self, self._connector.using(credentials)))
        except BaseException:
            self._opening -= 1
            # It was counted on by those who wait.
            self.open_more()
            raise
        self._opening -= 1
        room = self.held < self.limits.pool_size and not self._sharing.is_full(self)
        if welcome.asked and keep and room and not (server.closing or self._closed):
            self._opened(server, generation)
        else:
            server.close()
            self.open_more()
        return welcome.asked

    async def _connect(self, opening: Awaitable[tuple[ServerConnection, Welcome]]) -> tuple[ServerConnection, Welcome]:
        self.counts.servers_requested += 1
        if self._connector.uses_tls:
            self.counts.servers_requested_tls += 1
        try:
            server, welcome = await opening
            server.reported = dict(welcome.parameters)
            await prepare(server, self, self._sharing, self._route)
        except BaseException:
            self.counts.servers_failed += 1
            raise
        return server, welcome

    def _opened(self, server: ServerConnection, generation: int) -> None:
        if self._last_error is not None:
            logger.info("%s: there are server connections again", self.name, extra=events.of_pool("target_back", self))
        self._failures = 0
        self._last_error = None
        server.generation = generation
        self._servers.add(server)
        self.counts.servers_opened += 1
        self.server_released(server)

    def _open_failed(self, error: ProxyError) -> None:
        if self._last_error is None or str(error) != str(self._last_error):
            logger.warning(
                "%s: no server connection: %s",
                self.name,
                error,
                extra=events.of_pool("target_failed", self, sqlstate=error.sqlstate),
            )
        self._last_error = error
        self._failures += 1
        if error.sqlstate == "53300":
            self._sharing.target_of(self).doubt()
        if planner.is_final(error.sqlstate):
            for waiter in list(self._waiting):
                self.give_up(waiter)
                waiter.borrow_failed(error)
        if self._retry is None and not self._closed:
            delay = planner.retry_delay(self._failures, self.limits.server_login_retry)
            self._retry = self._loop.call_later(delay, self._try_again)
        # Another pool may have more luck with the place.
        self._sharing.freed(self)

    def _try_again(self) -> None:
        self._retry = None
        self.open_more()

    # Targets

    def _targets_changed(self) -> None:
        """What leads to the wrong server by now is closed, the rest of it when it is next free."""
        if self._closed:
            return
        self._count_by_target()
        self._failures = 0
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._retire_idle(server for server in self.idle if server.tainted)
        self.open_more()

    def follow(self, connector: Connector, cluster: Cluster, access: Access) -> None:
        """Open connections in this way and to these servers from now on."""
        self._connector = connector
        self._route.follow(cluster, access, connector)

    def leave_targets(self) -> None:
        """Nobody is interested in this pool any more; what is lent out comes back as ever."""
        self._route.leave()

    def read_only_seen(self, server: ServerConnection) -> None:
        """See Route.write_refused."""
        self._route.write_refused(server)

    @property
    def target(self) -> str:
        """The server that it uses, or used last: the writer, or the first of several readers."""
        return self.counts.target

    def target_of(self, server: ServerConnection) -> str:
        """The server that a server connection leads to."""
        endpoint = self._route.endpoint_of(server)
        return f"{endpoint.host}:{endpoint.port}" if endpoint is not None else self.target

    def _count_by_target(self) -> None:
        endpoint = self._route.target
        if endpoint is not None:
            self.counts.move(f"{endpoint.host}:{endpoint.port}")

    @property
    def last_error(self) -> ProxyError | None:
        """Why the latest attempt to connect failed; None if it did not."""
        return self._last_error

    @property
    def target_allows(self) -> int | None:
        """How many server connections all pools may have to its target together; None if that is not known."""
        limits = (limit for limit in self._sharing.of(self) if isinstance(limit, TargetLimit))
        return next((limit.most for limit in limits if limit.max_connections), None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
