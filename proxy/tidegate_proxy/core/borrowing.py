"""The half of a pool that runs for each transaction: taking an idle server connection, and putting it back, or handing
it to whoever waits.

Whatever is not as usual is left to the pool itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.core.statements import Statement
    from tidegate_proxy.pool.sharing_pool import Waiter


class Borrowing:
    """Idle server connections, and what tells whether they need anything before their next client.

    `max_prepared`: statements that stay prepared on a server connection.
    `plan_generation` changes whenever plans of statements that were prepared before may be out of date;
    `reuse_after`: so many times a statement comes without a name before it gets one, 0 for never; `seen` is how often
    each has, then the statement.
    `pins_sequences`: its clients read currval or lastval in later transactions than those that called nextval.
    """

    def __init__(self) -> None:
        # The latest is taken first: so the others may become idle for long enough to be closed.
        self.idle: list[ServerConnection] = []
        # Each with since when and until when at most it waits; the first has waited longest.
        self._waiting: dict[Waiter, tuple[float, float]] = {}
        # All that there are, and how many are being opened.
        self._servers: set[ServerConnection] = set()
        self._opening = 0
        # The settings pool_size, max_waiting_clients (0: any number) and connection_borrow_timeout, in seconds.
        self.pool_size = 0
        self.max_waiting = 0
        self.borrow_timeout = 0.0
        # Something keeps server connections from being taken and put back just so.
        self.held_up = False
        # Event-loop time in seconds, as of the latest sweep: nothing here needs it more precisely.
        self.now = 0.0
        self.generation = 0
        # The setting of that name; none stays by default.
        self.max_prepared = 0
        self.reuse_after = 0
        self.seen: dict[tuple[bytes, bytes, bytes], int | Statement] = {}
        self.plan_generation = b""
        self.pins_sequences = False
        # Every change of clients is to be prepared for.
        self.always_prefixed = False

    def take(self) -> ServerConnection | None:
        """A server connection if one is idle and nobody has waited for longer."""
        return None if self.held_up or self._waiting else self.take_idle()

    def take_idle(self) -> ServerConnection | None:
        """A server connection if one is idle."""
        while self.idle:
            server = self.idle.pop()
            if server.fatal is None and not server.closing:
                return server
            # It has said goodbye, and is about to be lost.
        return None

    def joins_queue(self, client: ClientConnection, now: float) -> bool:
        """The client waits behind others, if there is nothing else to be done for it: no connection may be opened.

        Parameters: `now`, event-loop time in seconds. Returns: whether it waits.
        """
        # Where somebody waits there is a timer already, for an earlier end.
        count = len(self._waiting)
        if count == 0 or len(self._servers) + self._opening < self.pool_size or 0 < self.max_waiting <= count:
            return False
        self._waiting[client] = (now, now + self.borrow_timeout)
        return True

    def put_back(self, server: ServerConnection) -> bool:
        """A server connection that may be reused goes to whoever waits longest, else to the idle ones.

        Returns: False, and nothing is done, where the pool has to look after it.
        """
        if self.held_up or server.tainted or server.generation != self.generation:
            return False
        if self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            waiter.server_granted(server)
            return True
        server.idle_since = self.now
        self.idle.append(server)
        return True

    def slow_request(self, client: ClientConnection, seconds: float) -> None:
        """A request was slow."""

    def is_ready_for(self, server: ServerConnection, client: ClientConnection) -> bool:
        """Whether nothing has to be sent ahead of the client's first message."""
        return (
            server.applied is client.session.parameters
            and not server.sequences_used
            and not self.always_prefixed
            and len(server.prepared) <= self.max_prepared
        )
