"""Ends transactions at the deadlines that their clients have set, also when a client is frozen or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import DeadlineError
from tidegate_proxy.pool.timeouts import unfinished

GRACE = 0.5
"""Seconds that a cancelled statement has to end, and its client to end the transaction. A COMMIT that the server has
got is answered by the server, so that the client never hears of a failure where there was none. With this, the server
connection is free again within a second of the deadline."""


class Deadlines:
    """Those of one pool's clients.

    Parameters: `cancel`, sends a CancelRequest to a server connection; `clean`, is given a server connection that was
    taken from its client, whether the client is in the midst of a message, and whether it still owes a Sync; `passed`,
    called with the client for each deadline that is about to end something.
    """

    def __init__(
        self,
        *,
        cancel: Callable[[ServerConnection], None],
        clean: Callable[[ServerConnection, bool, bool], None],
        passed: Callable[[ClientConnection], None],
    ) -> None:
        self._cancel = cancel
        self._clean = clean
        self._count = passed

    def set(self, client: ClientConnection, seconds: float) -> None:
        """The client's transaction, or its next one, shall end in that many seconds; 0: it may last."""
        client.forget_deadline()
        if seconds > 0:
            client.deadline = asyncio.get_running_loop().call_later(seconds, self._passed, client)

    def _passed(self, client: ClientConnection) -> None:
        client.deadline = None
        if client.waiting:
            self._count(client)
            client.cancel_wait(DeadlineError())
            return
        server = client.server
        if server is None or server.closing or not unfinished(server, client):
            return  # it is over
        if server.owes_only_itself:
            # It waits for us, not for its own statement: soon it is over, or goes on.
            client.deadline = asyncio.get_running_loop().call_later(GRACE / 2, self._passed, client)
        elif not server.answering:
            self._cut_off(client)
        else:
            self._count(client)
            self._cancel(server)
            client.deadline = asyncio.get_running_loop().call_later(GRACE, self._cut_off, client)

    def _cut_off(self, client: ClientConnection) -> None:
        cancelled, client.deadline = client.deadline is not None, None
        server = client.server
        if server is None or server.closing or not unfinished(server, client):
            return
        mid_message, unsynced = client.is_mid_message(), client.unsynced
        if not cancelled:
            self._count(client)
        server.cut_off(DeadlineError())
        self._clean(server, mid_message, unsynced)
