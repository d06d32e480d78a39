"""Where a pool's server connections lead to, and whether that is still the right server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from tidegate_proxy.core.owners import ServerOwner
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ConnectionLostError, ProxyError, ServerProtocolError, TargetUnavailableError
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.protocol import decode
from tidegate_proxy.protocol.login_server import Welcome
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.control import CHECK, read_facts
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.targets.planner import Access

_DOUBT_INTERVAL = 1.0


class Route:
    """The way of one pool to its servers.

    Parameters: `cluster`, the servers; `access`, which of them the pool wants; `connector`, how it logs in; `changed`,
    called when connections are tainted that lead to the wrong server by now, or when what failed before may work.
    """

    def __init__(self, cluster: Cluster, access: Access, connector: Connector, changed: Callable[[], None]) -> None:
        self._connector = connector
        self._changed = changed
        self._places: dict[ServerConnection, Place] = {}
        # What is being opened and may be given up, and to where once that is known.
        self._attempts: dict[asyncio.Task[None], Place | None] = {}
        # Connections to a server that others write to no longer, and since when: event-loop time in seconds.
        self._left: dict[ServerConnection, float] = {}
        self._doubted_at = 0.0
        self._view = cluster.join(access, connector, self._targets_changed)

    def follow(self, cluster: Cluster, access: Access, connector: Connector) -> None:
        """Lead to these servers from now on; see the class."""
        self._connector = connector
        self._view.leave()
        self._view = cluster.join(access, connector, self._targets_changed)

    async def attempt(self, owner: ServerOwner, connector: Connector) -> tuple[ServerConnection, Welcome]:
        """Open a session in a task of its own, which is cancelled when there is another server to use meanwhile.

        Raises: see `connect`.
        """
        task = asyncio.current_task()
        assert task is not None
        self._attempts[task] = None
        try:
            return await self.connect(owner, connector, task)
        finally:
            del self._attempts[task]

    async def connect(
        self, owner: ServerOwner, connector: Connector, task: asyncio.Task[None] | None = None
    ) -> tuple[ServerConnection, Welcome]:
        """Open a session on the server that suits best.

        Raises: TargetUnavailableError when there is none; see also `Connector.log_in`.
        """
        under_way = (place.endpoint for place in self._attempts.values() if place is not None)
        load: Counter[Endpoint] = Counter(place.endpoint for place in self._places.values())
        place = await self._view.place(load + Counter(under_way))
        if task is not None:
            self._attempts[task] = place
        server, welcome = await connector.connect(owner, place)
        self._places[server] = place
        try:
            self._check(server, welcome, place)
        except ProxyError as error:
            server.fail(error)
            raise
        return server, welcome

    def _check(self, server: ServerConnection, welcome: Welcome, place: Place) -> None:
        if server.closing:
            raise server.fatal or TargetUnavailableError()
        # PostgreSQL reports it from version 14 on, so that nobody has to ask.
        if self._view.access.role == "writer" and welcome.parameters.get(b"in_hot_standby") == b"on":
            self._view.doubt(place)
            raise TargetUnavailableError(f"{place.endpoint} is a standby and takes no writes")
        if not self._view.suits(place):
            # It went while this was opened.
            raise TargetUnavailableError(f"{place.endpoint} is no longer the server to use")

    async def confirm(self, server: ServerConnection) -> None:
        """Have a server itself say that it takes writes, if the control connection, which can't log in there, does not
        know: it may be a standby, or a primary that another one has succeeded.

        Raises: TargetUnavailableError when it is the wrong one; ProxyError when it does not say.
        """
        place = self._places.get(server)
        if place is None or self._view.access.role != "writer" or self._view.is_told(place):
            return
        answer = await server.run(CHECK)
        if answer.error is not None:
            raise decode.error_from_fields(answer.error)
        try:
            facts, _ = read_facts(answer.rows)
        except ValueError as error:
            raise ServerProtocolError(f"{place.endpoint} does not say whether it takes writes") from error
        self._view.told(place, facts)

    @property
    def target(self) -> Endpoint | None:
        """See View.target."""
        return self._view.target

    def endpoint_of(self, server: ServerConnection) -> Endpoint | None:
        """Where the connection leads to; None if it is gone."""
        place = self._places.get(server)
        return place.endpoint if place is not None else None

    def forget(self, server: ServerConnection) -> None:
        """The connection is gone."""
        self._places.pop(server, None)
        self._left.pop(server, None)

    async def cancel(self, server: ServerConnection) -> None:
        """Cancel what the server connection runs; see `Connector.cancel`."""
        place = self._places.get(server)
        if place is not None:
            await self._connector.cancel(server, place)

    def left_for(self, seconds: float) -> list[ServerConnection]:
        """The connections to servers that took writes when another one did already, for at least so long."""
        until = asyncio.get_running_loop().time() - seconds
        return [server for server, since in self._left.items() if since <= until and not server.closing]

    async def end(self, server: ServerConnection) -> None:
        """End a connection to a server that another one has replaced, and what it runs there."""
        place = self._places.get(server)
        server.fail(
            ConnectionLostError("the connection was ended because another server takes the writes of this database now")
        )
        if place is not None:
            # Nobody waits for it any more, but a server finds that out when it is done, and has committed.
            await self._connector.cancel(server, place)

    def write_refused(self, server: ServerConnection) -> None:
        """A write was refused (25006). That may be the client's own doing; or the server is no writer any more, which
        the control connection finds out, and until then nobody else shall be given this connection.

        One question a second counts in this way: clients that cause it themselves would otherwise have connections
        opened all the time.
        """
        place = self._places.get(server)
        if place is None or self._view.access.role != "writer":
            return
        self._view.doubt(place)
        now = asyncio.get_running_loop().time()
        if now - self._doubted_at >= _DOUBT_INTERVAL:
            self._doubted_at = now
        if not self._view.looked_since(place, self._doubted_at):
            server.tainted = True

    def _targets_changed(self) -> None:
        now = asyncio.get_running_loop().time()
        for server, place in self._places.items():
            server.tainted = server.tainted or not self._view.suits(place)
            if self._view.succeeded(place):
                # Nothing may come of what it does, and what is waited for there has the place of a connection to the
                # new writer. A machine whose processes hang still acknowledges every packet.
                server.fail(ConnectionLostError())
            elif self._view.replaced(place):
                self._left.setdefault(server, now)
        for task, aim in self._attempts.items():
            if aim is not None and not self._view.suits(aim):
                task.cancel()
        self._changed()

    def leave(self) -> None:
        """The pool is given up, and what it opens."""
        self._view.leave()
        for task in self._attempts:
            task.cancel()
