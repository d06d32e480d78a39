"""The half of a pool that runs for each transaction: taking an idle server connection, and putting it back.

Whatever is not as usual is left to the pool itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection


class Borrowing:
    """Idle server connections, and what tells whether they need anything before their next client.

    `max_prepared`: statements that stay prepared on a server connection.
    `plan_generation` changes whenever plans of statements that were prepared before may be out of date;
    `pins_sequences`: its clients read currval or lastval in later transactions than those that called nextval.
    """

    def __init__(self) -> None:
        # The latest is taken first: so the others may become idle for long enough to be closed.
        self.idle: list[ServerConnection] = []
        # Somebody waits, or something else keeps server connections from being put back just so.
        self.busy = False
        # Event-loop time in seconds, as of the latest sweep: nothing here needs it more precisely.
        self.now = 0.0
        self.generation = 0
        # The setting of that name; none stays by default.
        self.max_prepared = 0
        self.plan_generation = b""
        self.pins_sequences = False
        # Every change of clients is to be prepared for.
        self.always_prefixed = False

    def take(self) -> ServerConnection | None:
        """A server connection if one is idle and nobody has waited for longer."""
        if not self.busy:
            while self.idle:
                server = self.idle.pop()
                if server.fatal is None and not server.closing:
                    return server
                # It has said goodbye, and is about to be lost.
        return None

    def put_back(self, server: ServerConnection) -> bool:
        """Put a server connection that may be reused among the idle ones. False: the pool has to look after it."""
        if self.busy or server.tainted or server.generation != self.generation:
            return False
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
