"""What connections ask of the pool that owns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.core.statements import Statement


class ClientOwner(Protocol):
    """What a client connection asks of its pool; `plan_generation` and `pins_sequences`: see Borrowing."""

    plan_generation: bytes
    pins_sequences: bool

    def take(self) -> ServerConnection | None:
        """An idle server connection, if there is one."""

    def is_ready_for(self, server: ServerConnection, client: ClientConnection) -> bool:
        """Whether `prefix` has nothing to say."""

    def joins_queue(self, client: ClientConnection, now: float) -> bool:
        """Whether all that `acquire` has to do is to put the client at the queue's end, which is done then."""

    def acquire(self, client: ClientConnection) -> ServerConnection | None:
        """A server connection now, or None: then `server_granted` or `borrow_failed` is called later."""

    def give_up(self, client: ClientConnection) -> None:
        """The client waits no longer."""

    def prefix(self, client: ClientConnection, server: ServerConnection) -> bytes:
        """What must be sent ahead of the client's first message to make the session the client's own."""

    def orphaned(self, server: ServerConnection, client: ClientConnection, mid_message: bool) -> None:
        """The client vanished while it held the server connection."""

    def pinned(self, client: ClientConnection, reason: str) -> None:
        """The client keeps its server connection, for this reason too."""

    def unpinned(self, client: ClientConnection) -> None:
        """Nothing keeps the client on its server connection any longer."""

    def sequences_are_read(self, client: ClientConnection) -> None:
        """The client uses currval or lastval."""

    def defaults_changed(self) -> None:
        """Parameters of a role or a database were changed for sessions to come."""

    def set_deadline(self, client: ClientConnection, seconds: float) -> None:
        """The client's transaction, or its next one, is to end by then; 0 is never."""

    def client_lost(self, client: ClientConnection) -> None:
        """The client's connection has ended."""

    async def cancel(self, client: ClientConnection) -> None:
        """Do what a CancelRequest for this client asks."""

    def schema_changed(self) -> None:
        """Something was altered or dropped: plans may be out of date."""


class ServerOwner(Protocol):
    """What a server connection tells and asks the pool that owns it.

    `plan_generation`, `reuse_after` and `seen`: see Borrowing.
    """

    plan_generation: bytes
    reuse_after: int
    seen: dict[tuple[bytes, bytes, bytes], int | Statement]

    @property
    def max_prepared(self) -> int:
        """How many statements stay prepared on each connection."""

    def put_back(self, server: ServerConnection) -> bool:
        """Take it back if that is simple; False: `server_released` has to."""

    def server_released(self, server: ServerConnection) -> None:
        """The transaction is over and the client needs the connection no longer."""

    def server_lost(self, server: ServerConnection) -> None:
        """The connection is gone, whatever the reason."""

    def read_only_seen(self, server: ServerConnection) -> None:
        """It has answered that it can't write in a read-only transaction."""

    def slow_request(self, client: ClientConnection, seconds: float) -> None:
        """What the client has asked took that long, and that is slow."""
