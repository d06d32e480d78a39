"""One pool: the server connections of one database and user, and the queue of clients that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from tidegate_proxy import events
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.credentials.provider import CredentialProvider
from tidegate_proxy.errors import (
    BorrowTimeoutError,
    ProxyError,
    QueueFullError,
    ShutdownError,
    TargetRefusedError,
)
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.pool import planner, timeouts
from tidegate_proxy.pool.deadlines import Deadlines
from tidegate_proxy.pool.prepare import initialize, prepare
from tidegate_proxy.pool.reset import reset
from tidegate_proxy.pool.route import Route
from tidegate_proxy.pool.session import changes
from tidegate_proxy.pool.sharing import Sharing, TargetLimit
from tidegate_proxy.pool.sharing_pool import SharingPool, Waiter
from tidegate_proxy.protocol import decode, encode
from tidegate_proxy.protocol.login_server import Welcome
from tidegate_proxy.settings.effective import PoolLimits
from tidegate_proxy.slow import described
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.planner import Access

logger = logging.getLogger(__name__)

MAX_SESSIONS = 1000
"""Different sets of session parameters whose effect is remembered."""


_SESSION_ATTEMPTS = 3
"""How often a session's parameters are tried anew when the server connection is lost: they might be what breaks it."""

_RESET_ALL = "RESET SESSION AUTHORIZATION;RESET ALL"


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


class Pool(SharingPool):
    """The server connections of one (database, user).

    Parameters
    - `database`, `user`: as clients name them.
    - `limits`: sizes and times, which may be replaced at any time. `sharing`: the limits that it shares with others.
    - `asks_always`: sessions are asked about after every transaction.
    - `connector`: opens and cancels. `cluster`: the servers, of which the pool uses those that `access` says.
    - `counts`: where everything is counted.
    - `client_lost`: called with each client connection that has ended; `defaults_changed` when a client has changed
      defaults of a role or a database.
    """

    def __init__(
        self,
        database: str,
        user: str,
        *,
        limits: PoolLimits,
        sharing: Sharing,
        asks_always: bool,
        connector: Connector,
        cluster: Cluster,
        access: Access,
        counts: PoolCounts,
        client_lost: Callable[[ClientConnection], None],
        defaults_changed: Callable[[], None],
    ) -> None:
        super().__init__()
        self.database = database
        self.user = user
        self.name = f"{database}/{user}"
        self.limits = limits
        self.max_prepared = limits.max_prepared_statements
        self._sharing = sharing
        self._asks_always = asks_always
        self._connector = connector
        self._route = Route(cluster, access, connector, self._targets_changed)
        self.counts = counts
        self._count_by_target()
        self._client_lost = client_lost
        self._defaults_changed = defaults_changed
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._last_error: ProxyError | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._next_timeout: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: dict[tuple[tuple[str, str], ...], tuple[dict[str, str], dict[bytes, bytes]]] = {}
        self._welcome: dict[bytes, bytes] = {}
        self._query_timeouts = timeouts.QueryTimeouts()
        self._deadlines = Deadlines(
            cancel=lambda server: self._start(self._cancel(server)),
            clean=lambda server, mid_message, unsynced: self._start(
                self._reset(server, mid_message, unsynced, pinned=True, polite=False)
            ),
            passed=self._deadline_passed,
        )
        self._plan_generations = 0
        self.always_prefixed = self._asks_always
        self.now = self._loop.time()

    # Borrowing

    def acquire(self, waiter: Waiter) -> ServerConnection | None:
        """A server connection now, or None: then `server_granted` or `borrow_failed` of `waiter` is called later."""
        server = self.take()
        if server is not None:
            return server
        if 0 < self.limits.max_waiting_clients <= len(self._waiting):
            self._loop.call_soon(waiter.borrow_failed, QueueFullError(len(self._waiting)))
            return None
        self.busy = True
        now = self._loop.time()
        until = now + self.limits.connection_borrow_timeout
        self._waiting[waiter] = (now, until)
        # One timer for all: most waits are over long before.
        if self._next_timeout is None or until < self._next_timeout.when():
            self._wake_at(until)
        # The reserve is for those who wait for longer: the sweep sees to that.
        if self.held < self.limits.pool_size:
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
        self._see_whether_busy()
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
        if not server.reusable:
            self._retire(server)
        elif not self.put_back(server):
            if self._closed or self.close_needed(server):
                self._retire(server)
                return
            if self._contended and self._sharing.must_yield(self, server, self._loop.time()):
                self._servers.discard(server)
                server.close()
                self._sharing.freed(self)
                self.open_more()
            elif not self._waiting:
                server.idle_since = self.now
                self.idle.append(server)
            else:
                waiter = next(iter(self._waiting))
                del self._waiting[waiter]
                self._no_longer_waiting()
                waiter.server_granted(server)

    def _retire(self, server: ServerConnection) -> None:
        self._servers.discard(server)
        server.close()
        self.open_more()
        self._sharing.freed(self)

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

    # Opening

    def open_more(self) -> None:
        """Open as many server connections as are needed and allowed."""
        if self._retry is not None or self._closed or self._paused:
            return
        limits, since = self.limits, self.waits_since
        count = planner.connections_to_open(
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
        for _ in range(count):
            if not self._sharing.admit(self):
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
        except BaseException:
            self._opening -= 1
            # There is another server to go to, unless this is the end.
            self._loop.call_soon(self.open_more)
            raise
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
            await prepare(server, self, self._sharing)
        except BaseException:
            self.counts.servers_failed += 1
            raise
        return server, welcome

    def _opened(self, server: ServerConnection, generation: int) -> None:
        if self._last_error is not None:
            logger.info("%s: there are server connections again", self.name, extra=events.of_pool("target_back", self))
        self._failures = 0
        self._last_error = None
        if server.reported != self._welcome:
            self._welcome = dict(server.reported)
            self._sessions.clear()
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

    def _targets_changed(self) -> None:
        """What leads to the wrong server by now is closed, the rest of it when it is next free."""
        if self._closed:
            return
        self._count_by_target()
        self._failures = 0
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for server in [server for server in self.idle if server.tainted]:
            self.idle.remove(server)
            self._retire(server)
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

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Sessions

    async def begin_session(self, session: dict[str, str]) -> tuple[dict[str, str], dict[bytes, bytes]]:
        """Begin a session with parameters that a client asked for at its login.

        The server itself is asked, once for each different set, what it reports then.
        Returns: the parameters, the same object for all clients of the same; and each ParameterStatus.
        Raises: TargetRefusedError when it does not accept one; what `acquire` may fail with.
        """
        key = tuple(sorted(session.items()))
        known = self._sessions.get(key)
        if known is not None:
            return known
        attempts = _SESSION_ATTEMPTS
        while True:
            server = await self._borrow()
            try:
                reported = await self._try_session(server, session)
            except BaseException as error:
                lost = server.closing
                # Whatever state it is in, nobody else shall find out.
                server.fail(ShutdownError())
                if lost and isinstance(error, ProxyError) and attempts > 0:
                    # The server has gone away meanwhile, and nothing was done that the next one could not do again.
                    attempts -= 1
                    continue
                raise
            if reported is not None:
                self.server_released(server)
                break
            # It has a parameter of an earlier client that does not go away.
            server.fail(ShutdownError())
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        known = self._sessions[key] = (session, reported)
        return known

    async def ask(self, sql: str) -> InternalQuery:
        """Run a query of the proxy's own on a server connection of the pool, and return what came of it.

        Raises: what `acquire` may fail with; ProxyError if the connection is lost meanwhile.
        """
        server = await self._borrow()
        try:
            result = await server.run(sql)
        except BaseException:
            # It may still answer: nobody else shall get that.
            server.fail(ShutdownError())
            raise
        self.server_released(server)
        return result

    async def _borrow(self) -> ServerConnection:
        waiter = _FutureWaiter(self.server_released)
        server = self.acquire(waiter)
        if server is not None:
            return server
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise

    async def _try_session(self, server: ServerConnection, session: dict[str, str]) -> dict[bytes, bytes] | None:
        """Give the server these parameters, see what it reports then, and take them away again.

        Returns: None when it was not clean before. Raises: TargetRefusedError for parameters that it does not accept.
        """
        if server.applied:
            result = await server.run(self._changes(server.applied, {}))
            if result.error is not None:
                return None
            server.applied = {}
        if not session:
            return dict(server.reported)
        result = await server.run(changes({}, session))
        if result.error is not None:
            raise decode.error_from_fields(result.error)
        known = dict(server.reported)
        # What could not be taken away would stay with the clients that come after.
        result = await server.run(self._changes(session, {}))
        if result.error is not None:
            raise decode.error_from_fields(result.error)
        return known

    def _changes(self, current: Mapping[str, str], wanted: Mapping[str, str]) -> str:
        """SQL that turns one set of session parameters into another."""
        if self.limits.init_query is None or not current:
            return changes(current, wanted)
        # RESET goes back to before it.
        return ";".join(filter(None, (changes(current, {}), self.limits.init_query, changes({}, wanted))))

    def _give_back(self, waiter: _FutureWaiter) -> None:
        self.give_up(waiter)
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.server_released(waiter.future.result())

    def prefix(self, client: ClientConnection, server: ServerConnection) -> bytes:
        """Messages that make the server's session the client's own, to be sent ahead of the client's first one."""
        if self.is_ready_for(server, client):
            return b""

        def must_succeed(query: InternalQuery) -> None:
            if query.error is not None:
                # What follows would run in a session that is not the client's: it must not.
                server.fail(TargetRefusedError(query.error.get("M"), sqlstate=query.error.get("C")))

        messages = b""
        surplus = list(server.prepared)[: max(0, len(server.prepared) - self.max_prepared)]
        if surplus:
            for name in surplus:
                messages += encode.close_statement(name)
                del server.prepared[name]
            messages += encode.sync()
            server.begin_internal(lambda _: None)
        if self._asks_always and server.last_client not in (0, client.pid):
            # What a function has set under a name that nobody else has said is not in `applied`.
            messages += encode.query(";".join(filter(None, (_RESET_ALL, self.limits.init_query))))
            server.begin_internal(must_succeed)
            server.applied = {}
        messages += client.watch.sequences.borrowed(server, discard=self.always_prefixed)
        parameters = client.session.parameters
        if server.applied != parameters:
            messages += encode.query(self._changes(server.applied, parameters))
            server.begin_internal(must_succeed)
        # So that the next look need not compare them.
        server.applied = parameters
        return messages

    # Clients

    def pinned(self, client: ClientConnection, reason: str) -> None:
        """The client keeps its server connection, for this reason too."""
        self.counts.pins[reason] += 1
        logger.info(
            "%s: client %d is pinned to its server connection: %s",
            self.name,
            client.pid,
            reason,
            extra=events.of_client("pinned", self, client, reason=reason),
        )

    def unpinned(self, client: ClientConnection) -> None:
        """Nothing keeps the client on its server connection any longer."""
        logger.info(
            "%s: client %d is no longer pinned",
            self.name,
            client.pid,
            extra=events.of_client("unpinned", self, client),
        )

    def slow_request(self, client: ClientConnection, seconds: float) -> None:
        """A client's request took longer than `log_slow_queries`."""
        server = client.server
        standard_strings = server is None or server.reads_standard_strings
        request = described(client.asks or b"", client.statements, standard_strings)
        logger.warning(
            "%s: slow request of client %d: %s took %.3f s",
            self.name,
            client.pid,
            request.kind or "it",
            seconds,
            extra=events.of_client(
                "slow_query",
                self,
                client,
                kind=request.kind,
                fingerprint=request.fingerprint,
                seconds=round(seconds, 6),
                server_pid=server.pid if server is not None else None,
            ),
        )

    def sequences_are_read(self, client: ClientConnection) -> None:
        """A client uses currval or lastval: from now on, none may see what another's nextval left."""
        self.always_prefixed = True

    def defaults_changed(self) -> None:
        """Parameters of a role or a database were changed for sessions to come, so none may begin on an old server
        connection."""
        self._defaults_changed()

    def schema_changed(self) -> None:
        """Something was altered or dropped. Whoever prepares a statement from now on gets a new one; an old one fails
        or goes on as PostgreSQL has it."""
        self._plan_generations += 1
        self.plan_generation = b"%d" % self._plan_generations

    def renew(self) -> None:
        """Replace every server connection when it is next free."""
        self.generation += 1
        for server in [*self.idle]:
            self.idle.remove(server)
            self._retire(server)

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

    def pause(self) -> None:
        """Give no server connection to anybody, and close each one when it is next free."""
        self._paused = self.busy = True
        self._sharing.withdraw(self)
        for server in [*self.idle]:
            self.idle.remove(server)
            self._retire(server)

    def resume(self) -> None:
        """Go on after a pause."""
        self._paused = False
        self._see_whether_busy()
        self.open_more()

    def kill(self) -> None:
        """End every server connection now, whoever holds it."""
        for server in [*self._servers]:
            server.fail(ShutdownError())

    def orphaned(self, server: ServerConnection, client: ClientConnection, mid_message: bool) -> None:
        """The client vanished while it held the server connection: clean it, or close it."""
        pinned = client.session.unsettled or client.keeps_server
        deadline = None if client.deadline is None else client.deadline.when()
        self._start(self._reset(server, mid_message, client.unsynced, pinned, client.terminated, deadline))

    async def _reset(
        self,
        server: ServerConnection,
        mid_message: bool,
        unsynced: bool,
        pinned: bool,
        polite: bool,
        deadline: float | None = None,
    ) -> None:
        try:
            if polite and not (unsynced or mid_message or server.copy_in or server.uncertain):
                # What was asked before the goodbye is done, however long it takes; but the client's deadline holds.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await server.all_answered()
            async with asyncio.timeout(self.limits.server_reset_timeout):
                clean = await reset(
                    server,
                    cancel=self._route.cancel,
                    mid_message=mid_message,
                    unsynced=unsynced,
                    pinned=pinned,
                )
                if clean and pinned and self.limits.init_query is not None:
                    await initialize(server, self.limits.init_query)
        except (ProxyError, TimeoutError):
            clean = False
        if server.closing:
            return
        if clean and server.reusable:
            server.abandoned = False
            self.server_released(server)
        else:
            server.fail(ShutdownError("the connection could not be cleaned after its client vanished"))

    def set_deadline(self, client: ClientConnection, seconds: float) -> None:
        """The client's transaction, or its next one, shall end in that many seconds; 0: it may last."""
        self._deadlines.set(client, seconds)

    def _deadline_passed(self, client: ClientConnection) -> None:
        self.counts.deadline_cancels += 1
        server = client.server
        logger.info(
            "%s: client %d's transaction is ended at its deadline",
            self.name,
            client.pid,
            extra=events.of_client(
                "deadline_passed", self, client, server_pid=server.pid if server is not None else None
            ),
        )

    def client_lost(self, client: ClientConnection) -> None:
        """A client connection has ended."""
        self._client_lost(client)

    async def cancel(self, client: ClientConnection) -> None:
        """Do what a CancelRequest for this client asks: end its wait, or cancel what its server connection runs."""
        if client.waiting:
            client.cancel_wait(ProxyError("canceling statement due to user request", sqlstate="57014"))
            return
        server = client.server
        if server is not None and not server.closing and not server.owes_only_itself:
            await self._cancel(server)

    # Time and the end

    def sweep(self) -> None:
        """Close what has been idle for too long; called every second."""
        self.now = now = self._loop.time()
        for server in self._servers:
            if planner.is_worn_out(now=now, created=server.created, lifetime=self.limits.server_lifetime):
                server.tainted = True
        least, most = self.limits.min_pool_size if self.clients else 0, self.limits.pool_size
        for server in [*self.idle]:
            idle_for_too_long = self.held > least and planner.idle_for_too_long(
                now=now, idle_since=server.idle_since, idle_timeout=self.limits.server_idle_timeout
            )
            # What the reserve has given goes back to it.
            if server.tainted or idle_for_too_long or self.held > most:
                self.idle.remove(server)
                self._retire(server)
        for server in self._query_timeouts.to_cancel(self._servers, self.limits, now):
            self._start(self._cancel(server))
        timeouts.end_late_clients(self._servers, self.limits, now)
        self.open_more()

    async def _cancel(self, server: ServerConnection) -> None:
        try:
            await self._route.cancel(server)
        finally:
            # The connection may have been done with meanwhile, but for us.
            server.look_again()

    @property
    def unused(self) -> bool:
        """Whether nobody would notice if the pool were gone."""
        return not (self._servers or self._waiting or self._opening or self._tasks)

    async def close(self) -> None:
        """Close every server connection; whoever still holds one has been told."""
        self._closed = self.busy = True
        if self._retry is not None:
            self._retry.cancel()
        if self._next_timeout is not None:
            self._next_timeout.cancel()
        self._route.leave()
        for waiter in list(self._waiting):
            self.give_up(waiter)
            waiter.borrow_failed(ShutdownError())
        for server in [*self.idle]:
            self._retire(server)
        self.idle.clear()
        self._sharing.leave(self)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.limits.server_reset_timeout + 1)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for server in [*self._servers]:
            server.fail(ShutdownError())
