"""What other pools know of a pool with which they share limits: how much it has, and how much it needs that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from tidegate_proxy.core.borrowing import Borrowing
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.settings.effective import SharedLimits


class Waiter(Protocol):
    """Who may wait for a server connection: a client, or a login that needs to ask the server something."""

    def server_granted(self, server: ServerConnection) -> None:
        """Here it is."""

    def borrow_failed(self, error: ProxyError) -> None:
        """There will be none."""


class SharingPool(Borrowing):
    """The state of a pool that decisions about shared limits are made from."""

    def __init__(self) -> None:
        super().__init__()
        # What it, and its clients, share with others; None as long as it shares nothing.
        self.shared_limits: SharedLimits | None = None
        # Clients that have logged in.
        self.clients = 0
        self._closed = False
        self._paused = False
        self._contended = False

    @property
    def contended(self) -> bool:
        """Whether some pool waits for a place under a limit that this one shares."""
        return self._contended

    @contended.setter
    def contended(self, contended: bool) -> None:
        self._contended = contended
        self._see_whether_held_up()

    def _see_whether_held_up(self) -> None:
        self.held_up = self._closed or self._paused or self._contended

    @property
    def servers(self) -> Collection[ServerConnection]:
        """Its server connections, whatever they do."""
        return self._servers

    @property
    def waiting(self) -> Mapping[Waiter, tuple[float, float]]:
        """Who waits, first come first: since when, and until when at most, in seconds of the event loop."""
        return self._waiting

    def close_needed(self, server: ServerConnection) -> bool:
        """Whether it will be closed when it is next free."""
        return server.tainted or self._paused or server.generation != self.generation

    @property
    def held(self) -> int:
        """How many server connections there are and are being opened."""
        return len(self._servers) + self._opening

    @property
    def waiters(self) -> int:
        """How many clients wait."""
        return len(self._waiting)

    @property
    def opening(self) -> int:
        """How many are being opened."""
        return self._opening

    @property
    def waits_since(self) -> float | None:
        """Since when the first client waits, in seconds of the event loop; None if none does."""
        return next(iter(self._waiting.values()))[0] if self._waiting else None

    @property
    def in_demand(self) -> bool:
        """Whether anybody uses a server connection, or would like to."""
        return bool(self._waiting) or self.held > len(self.idle)

    @property
    def wanted(self) -> int:
        """How many more it would open at once, were it not for limits that it shares."""
        raise NotImplementedError

    def close_longest_idle(self) -> None:
        """Close one idle server connection."""
        server = self.idle.pop(0)
        self._servers.discard(server)
        server.close()

    def open_more(self) -> None:
        """Open as many server connections as are needed and allowed."""
        raise NotImplementedError
