"""currval and lastval tell a client what its own nextval returned, and never what another's did.

PostgreSQL keeps these values in the server process. An INSERT may take some without a word (a serial or identity
column), so after one they are discarded before anybody else gets the connection. Whoever reads them in a later
transaction than the INSERT needs the same connection again: once a client of a pool has done that, an INSERT pins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core.codes import NOBODYS_VALUES
from tidegate_proxy.core.statements import AnswersFirst, InternalQuery
from tidegate_proxy.core.suspect import SEQUENCE
from tidegate_proxy.errors import ClientProtocolError, TargetRefusedError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import IN_FAILED_TRANSACTION

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection

_DISCARD = encode.query("DISCARD SEQUENCES")


class SequenceUse:
    """What one client has to do with sequences."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        # The server process that has what this client's latest nextval returned.
        self._server = 0
        # An INSERT was run in the transaction under way.
        self._used = False
        # Server processes on which nothing is left since the client discarded everything; None while it has not.
        self._discarded_on: set[int] | None = None

    def used(self, server: ServerConnection) -> None:
        """An INSERT, MERGE or COPY was run, which may have called nextval."""
        self._server = server.pid
        self._used = server.sequences_used = True
        if self._client.owner.pins_sequences:
            self._client.watch.pin(SEQUENCE)

    def transaction_ended(self) -> None:
        """No transaction is open."""
        self._used = False

    def borrowed(self, server: ServerConnection, discard: bool) -> bytes:
        """The client gets a server connection.

        Parameters: `discard`, also what no INSERT has left there, but a function, say.
        Returns: what goes ahead of the client's first message.
        """
        if server.sequences_used:
            discard = self._is_foreign(server) or self._server != server.pid
        elif not self._is_foreign(server):
            discard = False
        return self._discard(server) if discard else b""

    def _is_foreign(self, server: ServerConnection) -> bool:
        """Whether a value there may be another client's, or one that this client has discarded elsewhere."""
        if server.sequences_of not in (NOBODYS_VALUES, self._client.pid):
            return True
        return self._discarded_on is not None and server.pid not in self._discarded_on

    def taken(self, server: ServerConnection) -> bytes:
        """nextval or setval is about to be called, after which its values are the client's to ask for.

        Returns: what goes ahead of it. Raises: AnswersFirst.
        """
        if self._used or self._client.unsynced or server.copy_in or not self._is_foreign(server):
            return b""
        if not server.owes_nothing_to_client:
            raise AnswersFirst
        return b"" if server.status == IN_FAILED_TRANSACTION else self._discard(server)

    def read(self, server: ServerConnection, text: bytes) -> bytes:
        """currval or lastval is about to be called.

        Returns: what goes ahead of it. Raises: AnswersFirst; ClientProtocolError where another client's value could be
        told and nothing can be sent ahead.
        """
        client = self._client
        if server.copy_in:
            return b""  # the server gives up the copy, and does not read this
        # In a pool where nobody has read them so far they may be another's.
        foreign = self._is_foreign(server)
        if foreign and not client.unsynced and not server.owes_nothing_to_client:
            raise AnswersFirst
        client.owner.sequences_are_read(client)
        failed = server.status == IN_FAILED_TRANSACTION
        if failed and not client.unsynced and b";" not in text.rstrip(b"; \t\r\n\f\v"):
            return b""  # it fails
        if foreign and (client.unsynced or failed):
            raise ClientProtocolError(
                "the value of a sequence that another client has used cannot be told apart here",
                sqlstate="55000",
                hint="This can happen once, when currval or lastval are first used: repeat the transaction.",
            )
        pinned = SEQUENCE in client.session.pins
        if self._server and not (pinned or self._used or failed or b"insert" in text.lower()):
            client.owner.pins_sequences = True
        # In a transaction that has taken some already they are lost with it, and the server says that there is none.
        return self._discard(server) if foreign else b""

    def forgotten(self, server: ServerConnection) -> None:
        """The client has discarded them."""
        self._server = 0
        self._discarded_on = {server.pid}

    def _discard(self, server: ServerConnection) -> bytes:
        server.sequences_of = self._client.pid
        server.sequences_used = False
        if self._discarded_on is not None:
            self._discarded_on.add(server.pid)

        def discarded(query: InternalQuery) -> None:
            if query.error is not None:
                # What follows could read another client's number: it must not.
                server.fail(TargetRefusedError(query.error.get("M"), sqlstate=query.error.get("C")))

        server.begin_internal(discarded)
        return _DISCARD
