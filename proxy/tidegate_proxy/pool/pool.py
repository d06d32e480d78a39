"""One pool: the server connections of one database and user, and the queue of clients that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from tidegate_proxy import events
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.errors import ProxyError, ShutdownError, TargetRefusedError
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.pool import planner, timeouts
from tidegate_proxy.pool.deadlines import Deadlines
from tidegate_proxy.pool.known_sessions import KnownSession, KnownSessions
from tidegate_proxy.pool.opening import OpeningPool
from tidegate_proxy.pool.prepare import initialize
from tidegate_proxy.pool.reset import reset
from tidegate_proxy.pool.sharing import Sharing
from tidegate_proxy.protocol import encode
from tidegate_proxy.settings.effective import PoolLimits
from tidegate_proxy.slow import described
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.planner import Access

logger = logging.getLogger(__name__)

_RESET_ALL = "RESET SESSION AUTHORIZATION;RESET ALL"


class Pool(OpeningPool):
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
        super().__init__(
            database,
            user,
            limits=limits,
            sharing=sharing,
            connector=connector,
            cluster=cluster,
            access=access,
            counts=counts,
        )
        self._asks_always = asks_always
        self._client_lost = client_lost
        self._defaults_changed = defaults_changed
        self._sessions = KnownSessions(self)
        self._deadlines = Deadlines(
            cancel=lambda server: self._start(self._cancel(server)),
            clean=lambda server, mid_message, unsynced: self._start(
                self._reset(server, mid_message, unsynced, pinned=True, polite=False)
            ),
            passed=self._deadline_passed,
        )
        self._plan_generations = 0
        self.always_prefixed = asks_always

    # Sessions

    def known_session(self, session: dict[str, str]) -> KnownSession | None:
        """See KnownSessions.get."""
        return self._sessions.get(session)

    async def begin_session(self, session: dict[str, str]) -> KnownSession:
        """See KnownSessions.begin."""
        return await self._sessions.begin(session)

    def _opened(self, server: ServerConnection, generation: int) -> None:
        self._sessions.welcomed(server.reported)
        super()._opened(server, generation)

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
            messages += encode.query(self._sessions.changes(server.applied, parameters))
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
        if clean and server.is_reusable():
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

    # The operator, time, and the end

    def renew(self) -> None:
        """Replace every server connection when it is next free."""
        self.generation += 1
        self._retire_idle(self.idle)

    def pause(self) -> None:
        """Give no server connection to anybody, and close each one when it is next free."""
        self._paused = self.held_up = True
        self._sharing.withdraw(self)
        self._retire_idle(self.idle)

    def resume(self) -> None:
        """Go on after a pause."""
        self._paused = False
        self._see_whether_held_up()
        self.open_more()

    def kill(self) -> None:
        """End every server connection now, whoever holds it."""
        for server in [*self._servers]:
            server.fail(ShutdownError())

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
                self._retire_idle([server])
        for server in self._query_timeouts.to_cancel(self._servers, self.limits, now):
            self._start(self._cancel(server))
        timeouts.end_late_clients(self._servers, self.limits, now)
        if self.limits.left_writer_timeout:
            for server in self._route.left_for(self.limits.left_writer_timeout):
                self._start(self._route.end(server))
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
        self._closed = self.held_up = True
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
