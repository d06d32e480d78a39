"""Clients that have been idle or connected for too long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.pool.timeouts import unfinished

AT_ONCE = 1000
"""Clients looked at in one go: some hundred microseconds. Of 100,000 clients, each is looked at every 100 s."""


class IdleClients:
    """Looks at some of the clients each time, and at all of them in turn.

    Parameters: `clients`, all there are at present; `pool_of` tells a client's pool.
    """

    def __init__(
        self, clients: Callable[[], Iterable[ClientConnection]], pool_of: Callable[[ClientConnection], Pool]
    ) -> None:
        self._clients = clients
        self._pool_of = pool_of
        self._round: Iterator[ClientConnection] = iter(())

    def sweep(self, now: float, lifetime: float) -> None:
        """Close those whose time is over.

        Parameters: `now`, event-loop time in seconds; `lifetime`, the setting `client_lifetime` in seconds.
        """
        part = list(islice(self._round, AT_ONCE))
        if not part:
            self._round = iter(list(self._clients()))
            part = list(islice(self._round, AT_ONCE))
        for client in part:
            if client.closing:
                continue
            if 0 < lifetime <= now - client.connected:
                client.shut_down()
            elif not client.waiting:
                self._end_if_idle(client, now)

    def _end_if_idle(self, client: ClientConnection, now: float) -> None:
        timeout = self._pool_of(client).limits.idle_client_timeout
        if client.heard or (client.server is not None and unfinished(client.server, client)):
            client.heard = False
            client.silent_since = now
        elif 0 < timeout <= now - client.silent_since:
            client.fail(ProxyError("terminating connection due to idle-session timeout", sqlstate="57P05"))
