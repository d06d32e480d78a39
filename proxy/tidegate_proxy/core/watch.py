"""Watches what a client sends for statements that may change its session, and asks the server what came of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core.sequences import SequenceUse
from tidegate_proxy.core.session import Session
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.core.suspect import (
    ANYTHING,
    LIBRARY,
    LONG,
    OPAQUE,
    SEQUENCE,
    UNREADABLE,
    Suspicion,
    examine,
    examine_part,
    is_part_suspect,
)
from tidegate_proxy.pool.session import restored_where_reset
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.rows import arguments
from tidegate_proxy.protocol.wire import IDLE, IN_FAILED_TRANSACTION, QUERY

if TYPE_CHECKING:
    from tidegate_proxy.core.check import Check
    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.core.prepared import ClientStatements
    from tidegate_proxy.core.server import ServerConnection

# Client encodings in which a byte that looks like a backslash may be half of another character.
_BACKSLASH_WITHIN = frozenset({b"BIG5", b"GB18030", b"GBK", b"JOHAB", b"SHIFT_JIS_2004", b"SJIS", b"UHC"})
_LOCAL = Suspicion(local=True)
# What no DISCARD ALL undoes.
_FOR_GOOD = frozenset({LIBRARY, LONG, OPAQUE, UNREADABLE})
# What takes numbers of sequences or, for all that a text shows, may read them.
_MAY_USE_SEQUENCES = frozenset({LONG, OPAQUE, SEQUENCE, UNREADABLE})
# Bytes of a long statement that are looked at again together with its next part.
_OVERLAP = 128
# Object ids of lo_open, lo_close, loread, lowrite, lo_lseek, lo_creat, lo_create, lo_tell, lo_unlink, lo_truncate and
# the 64-bit lo_lseek, lo_tell, lo_truncate (pg_proc.dat): what libpq calls by FunctionCall.
_LARGE_OBJECT_FUNCTIONS = frozenset(
    number.to_bytes(4, "big") for number in (952, 953, 954, 955, 956, 957, 715, 958, 964, 1004, 3170, 3171, 3172)
)


class SessionWatch:
    """What one client does to its session.

    Parameters: `client`, and its `session`.
    """

    def __init__(self, client: ClientConnection, session: Session) -> None:
        self._client = client
        self.session = session
        # The end of what was looked at of a long statement whose rest is still to come.
        self._scanned: bytes | None = None
        self._defaults_changed = False
        # It dropped or altered something in the transaction under way: plans may be out of date.
        self.schema_changed = False
        # Something may have been set in the transaction under way, if only for its time.
        self._meaning_changed = False
        # Parameters of the StartupMessage that a statement since the last answer may have reset.
        self.restoring: dict[str, str] = {}
        # How many of them have been restored within the transaction under way.
        self._restored_within = 0
        # The latest suspect Query has DISCARD and nextval, in whatever order.
        self.discards_and_takes = False
        self.sequences = SequenceUse(client)

    @property
    def statement_context(self) -> bytes | None:
        """What decides, beside its text, whether a statement is the same as another client's; None when it must not be
        shared, because nobody here knows under which parameters the server will read it."""
        if self._client.keeps_server or self._meaning_changed or not self.session.is_known:
            return None
        server = self._client.server
        if self.session.always_ask and server is not None and (server.status != IDLE or server.owed):
            return None  # a function may have set something
        return self.session.context

    # While statements are sent

    def examine(self, server: ServerConnection, text: bytes) -> Suspicion | None:
        """What a suspect text may change; see `suspect.examine`."""
        if b"\\" not in text:
            return examine(text, True)
        if server.owed or self._client.unsynced or server.reported.get(b"client_encoding") in _BACKSLASH_WITHIN:
            # What a backslash means is being set right now, or it may be half of another character.
            return examine_part(text)
        return examine(text, server.reads_standard_strings)

    def suspect(self, suspicion: Suspicion) -> None:
        """A statement that may change the session is about to be run."""
        if self._client.keeps_server:
            return
        self._meaning_changed = True
        if suspicion == _LOCAL:
            return
        if suspicion.bound:
            suspicion = suspicion.with_bound((None,))
        for reason in self.session.note(suspicion):
            self._client.owner.pinned(self._client, reason)
            if reason in _FOR_GOOD and self._client.server is not None:
                self._client.server.tainted = True
        if suspicion.defaults:
            self._defaults_changed = True
        if suspicion.forgets:
            self._client.awaits_answers = True
        if self.session.startup and (suspicion.reset or suspicion.reset_all):
            self.restoring |= self.session.restored_by(suspicion)
            self._restored_within = 0
            # Until it is restored the server is at its own beginning, not at that of the client's session.
            self._client.awaits_answers = True

    def bound(self, suspicion: Suspicion, data: bytes, pos: int, end: int) -> None:
        """A suspect statement is bound; `data[pos:end]` is what follows its name in the Bind message."""
        if suspicion.bound and not self._client.keeps_server:
            suspicion = suspicion.with_bound(arguments(data, pos, end, suspicion.bound))
        self.suspect(suspicion)

    def restore(self, status: int) -> bytes:
        """What follows a request that may have reset parameters: RESET goes back to the server's value, but the session
        has begun with that of the client's StartupMessage.

        Parameters: `status`, that of the transaction. Once it has ended the same is to be done again, for what was set
        for its time only has hidden what was reset.
        """
        if status == IN_FAILED_TRANSACTION:
            return b""
        if status == IDLE:
            restored, self.restoring = self.restoring, {}
        elif self._restored_within == len(self.restoring):
            return b""
        else:
            restored = self.restoring
        self._restored_within = len(self.restoring)
        return encode.query(restored_where_reset(restored))

    def query(
        self, server: ServerConnection, message: bytes, text: bytes, statements: ClientStatements, out: list[bytes]
    ) -> None:
        """A whole Query that is suspect is sent: appends it to `out`, with what goes before and behind it."""
        suspicion = self.examine(server, text)
        # Nothing of the client's is before it, neither unanswered nor in a transaction.
        first = server.status == IDLE and not self._client.unsynced and server.owes_nothing_to_client
        if suspicion is not None:
            self.suspect(suspicion)
            self.discards_and_takes = SEQUENCE in suspicion.pins and b"discard" in text.lower()
            ahead = self.sequences_ahead(server, suspicion, text)
            if ahead:
                out.append(ahead)
        if not self._client.unsynced:
            renamed = statements.by_server_name(server, text, out, apart=True)
            if renamed is not text:
                message = encode.query(renamed)
        server.owed.append(self._client.simple(QUERY))
        out.append(message)
        if suspicion is not None and suspicion.sure_end and first and not self.restoring:
            # It ends its own transaction, so asking in the same breath spares a round trip.
            check = self.session.next_check(server.applied, in_advance=True)
            if check is not None:
                server.ask(self._client, check)
                out.append(encode.query(check.sql()))

    def sequences_ahead(self, server: ServerConnection, suspicion: Suspicion, text: bytes) -> bytes:
        """What goes ahead of a statement because of the sequences that it uses; see SequenceUse.read."""
        if suspicion.reads_sequence:
            return self.sequences.read(server, text)
        return b"" if suspicion.pins.isdisjoint(_MAY_USE_SEQUENCES) else self.sequences.taken(server)

    def function_call(self, function: bytes) -> None:
        """A FunctionCall of the function with this object id, four bytes as they are sent."""
        if function not in _LARGE_OBJECT_FUNCTIONS:
            self.suspect(ANYTHING)

    def long_query(self, part: bytes) -> None:
        """The next part of a Query that is too long to be looked at as a whole."""
        # What goes on from an earlier part begins no statement, whatever it begins with.
        window = part if self._scanned is None else b"_" + self._scanned + part
        if is_part_suspect(window):
            suspicion = examine_part(window)
            if suspicion is not None:
                self.suspect(suspicion)
        self._scanned = window[-_OVERLAP:]

    @property
    def in_long_query(self) -> bool:
        """Whether the message that is still coming is a Query that is looked at in parts."""
        return self._scanned is not None

    def end_long_query(self) -> None:
        """Its last part has come."""
        self._scanned = None

    def pin(self, reason: str) -> None:
        """The client keeps its server connection, for a reason that no statement's text has shown."""
        if reason not in self.session.pins and not self._client.keeps_server:
            self.session.pins.add(reason)
            self._client.owner.pinned(self._client, reason)

    def unpin(self, reason: str) -> None:
        """What this reason stands for is gone."""
        if reason in self.session.pins:
            self.session.pins.discard(reason)
            if not self.session.pins:
                self._client.owner.unpinned(self._client)

    # When they are answered

    def next_check(self, something_ran: bool) -> Check | None:
        """What the server should be asked about the session now that no transaction is open, or None."""
        if self._client.keeps_server or self._client.server is None:
            return None
        if self._defaults_changed:
            self._defaults_changed = False
            self._client.owner.defaults_changed()
        if self.schema_changed:
            self.schema_changed = False
            self._client.owner.schema_changed()
        self._meaning_changed = False
        self.sequences.transaction_ended()
        if something_ran:
            self.session.something_ran()
        return None if self.session.asked else self.session.next_check(self._client.server.applied)

    def checked(self, server: ServerConnection, check: Check, query: InternalQuery) -> None:
        """The server's answer."""
        if self._client.closing:
            return  # the server connection is cleaned of everything
        before = set(self.session.pins)
        server.applied = self.session.answered(check, query, server.applied)
        for reason in self.session.pins - before:
            self._client.owner.pinned(self._client, reason)
        if before and not self.session.pins:
            self._client.owner.unpinned(self._client)
