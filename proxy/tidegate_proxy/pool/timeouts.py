"""Which of a pool's clients have taken too long: with a query, with a transaction, or in the midst of one."""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol.wire import IDLE
from tidegate_proxy.settings.effective import PoolLimits


def _over(since: float, timeout: float, now: float) -> bool:
    return timeout > 0 and since > 0 and now - since >= timeout


class QueryTimeouts:
    """Queries of one pool that were cancelled because of `query_timeout`."""

    def __init__(self) -> None:
        # Since when the query ran, and when it was cancelled.
        self._cancelled: dict[ServerConnection, tuple[float, float]] = {}

    def to_cancel(self, servers: Iterable[ServerConnection], limits: PoolLimits, now: float) -> list[ServerConnection]:
        """Server connections whose query is to be cancelled now; `now` in seconds.

        Where the cancellation has not helped within `server_reset_timeout`, the server connection is closed.
        """
        late = []
        for server in list(servers):
            if server.client is None or not server.answering or server.owes_only_itself:
                continue
            if not _over(server.asked, limits.query_timeout, now):
                continue
            asked, cancelled = self._cancelled.get(server, (0.0, 0.0))
            if asked != server.asked:
                self._cancelled[server] = (server.asked, now)
                late.append(server)
            elif now - cancelled >= limits.server_reset_timeout:
                server.fail(ProxyError("canceling statement due to query timeout", sqlstate="57014"))
        return late

    def forget(self, server: ServerConnection) -> None:
        """The server connection is gone."""
        self._cancelled.pop(server, None)


def end_late_clients(servers: Iterable[ServerConnection], limits: PoolLimits, now: float) -> None:
    """Close the clients that hold a server connection for too long; `now` in seconds."""
    for server in list(servers):
        client = server.client
        if client is None:
            continue
        if _over(server.began, limits.transaction_timeout, now) and unfinished(server, client):
            client.fail(ProxyError("terminating connection due to transaction timeout", sqlstate="25P04"))
        elif limits.idle_transaction_timeout > 0:
            _end_if_idle(server, client, limits.idle_transaction_timeout, now)


def unfinished(server: ServerConnection, client: ClientConnection) -> bool:
    """Whether a transaction or a request is under way; what is only pinned is not."""
    return server.status != IDLE or client.unsynced or client.is_mid_message() or server.answering


def _end_if_idle(server: ServerConnection, client: ClientConnection, timeout: float, now: float) -> None:
    # What is uncertain may be waited for in vain.
    working = server.answering and not (server.copy_in or server.uncertain or client.is_mid_message())
    if client.heard or client.held_back or working:
        client.heard = False
        client.silent_since = now
    elif unfinished(server, client) and client.silent_since + timeout <= now:
        # What is pinned may be idle for longer.
        client.fail(ProxyError("terminating connection due to idle-in-transaction timeout", sqlstate="25P03"))
