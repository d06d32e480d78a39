"""currval and lastval tell a client what its own nextval returned, and never what another's did.

PostgreSQL keeps these values in the server process. An INSERT may take some without a word (a serial or identity
column), so after one they are discarded before anybody else gets the connection. Whoever reads them in a later
transaction than the INSERT needs the same connection again: once a client of a pool has done that, an INSERT pins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core.statements import AnswersFirst, InternalQuery
from tidegate_proxy.core.suspect import SEQUENCE
from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import IN_FAILED_TRANSACTION

if TYPE_CHECKING:
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.server import ServerConnection

_DISCARD = encode.query("DISCARD SEQUENCES")


def _nothing(_: InternalQuery) -> None:
    pass


class SequenceUse:
    """What one client has to do with sequences."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        # The server process that has what this client's latest nextval returned.
        self._server = 0
        # An INSERT was run in the transaction under way.
        self._used = False

    def used(self, server: ServerConnection) -> None:
        """An INSERT, MERGE or COPY was run, which may have called nextval."""
        self._server = server.pid
        if server.last_client in (0, self._client.pid):
            server.sequences_of = self._client.pid
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
            discard = server.sequences_of != self._client.pid or self._server != server.pid
        elif server.sequences_of == self._client.pid:
            discard = False
        return self._discard(server) if discard else b""

    def read(self, server: ServerConnection, text: bytes) -> bytes:
        """currval or lastval is about to be called.

        Returns: what goes ahead of it. Raises: AnswersFirst; ClientProtocolError where another client's value could be
        told and nothing can be sent ahead.
        """
        client = self._client
        if SEQUENCE in client.session.pins or self._used or server.status == IN_FAILED_TRANSACTION:
            client.owner.sequences_are_read(client)
            return b""
        # In a pool where nobody has read them so far they may be another's.
        foreign = server.sequences_of != client.pid
        if foreign and not client.unsynced and not server.owes_nothing_to_client:
            raise AnswersFirst
        client.owner.sequences_are_read(client)
        if foreign and client.unsynced:
            raise ClientProtocolError(
                "the value of a sequence that another client has used cannot be told apart here",
                sqlstate="55000",
                hint="This can happen once, when currval or lastval are first used: repeat the transaction.",
            )
        if self._server and b"insert" not in text.lower():
            client.owner.pins_sequences = True
        return self._discard(server) if foreign else b""

    def forgotten(self) -> None:
        """The client has discarded them."""
        self._server = 0

    def _discard(self, server: ServerConnection) -> bytes:
        server.sequences_of = self._client.pid
        server.sequences_used = False
        server.begin_internal(_nothing)
        return _DISCARD
