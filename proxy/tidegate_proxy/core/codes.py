"""Which message types the per-message path knows, as tables that are indexed by a message's first byte."""

from __future__ import annotations

from typing import Final

from tidegate_proxy.protocol import wire

OF_STATEMENT: Final = ord("S")
"""In Describe and Close: a statement, not a portal."""

KNOWN: Final = 1
"""A client may send it once it is logged in."""

SHORT: Final = 2
"""PostgreSQL allows it only few bytes; for more it drops the connection, which here is everybody's."""

NAMES_STATEMENT: Final = 4

BEGINS: Final = 8
"""It may begin a request."""


def _client_kinds() -> bytes:
    kinds = bytearray(256)
    for kind in b"BCDEFHPQSXdcf":
        kinds[kind] = KNOWN
    for kind in b"CDEHSXcf":
        kinds[kind] |= SHORT
    for kind in b"PBDC":
        kinds[kind] |= NAMES_STATEMENT | BEGINS
    for kind in b"EQF":
        kinds[kind] |= BEGINS
    return bytes(kinds)


FROM_CLIENT: Final = _client_kinds()
"""What there is to know of each message of a client."""

MAX_SHORT_MESSAGE: Final = 10_000
"""What a length word may say there (PQ_SMALL_MESSAGE_LIMIT in libpq.h)."""

QUERY_AFTER_EXTENDED: Final = ord("q")
"""Owed: the ReadyForQuery of a Query or FunctionCall that was sent without a Sync behind extended-protocol messages. If
one of those fails, PostgreSQL passes over it, and everything else up to a Sync."""

COPY_DONE_IN_REQUEST: Final = ord("k")
"""Among what is owed: a CopyDone or CopyFail that was sent without a Sync behind extended-protocol messages. It ends a
copy of that request, and so must not be taken for a late one of the request before."""

UNKNOWN: Final = 0
FORWARDED: Final = 1
READ: Final = 2


def _server_kinds() -> bytes:
    kinds = bytearray(256)
    for kind in (
        wire.BIND_COMPLETE,
        wire.COPY_DATA,
        wire.COPY_DONE,
        wire.COPY_OUT_RESPONSE,
        wire.DATA_ROW,
        wire.FUNCTION_CALL_RESPONSE,
        wire.NO_DATA,
        wire.PARAMETER_DESCRIPTION,
        wire.ROW_DESCRIPTION,
    ):
        kinds[kind] = FORWARDED
    for kind in (
        wire.CLOSE_COMPLETE,
        wire.COMMAND_COMPLETE,
        wire.COPY_IN_RESPONSE,
        wire.EMPTY_QUERY_RESPONSE,
        wire.ERROR_RESPONSE,
        wire.NOTICE_RESPONSE,
        wire.NOTIFICATION_RESPONSE,
        wire.PARAMETER_STATUS,
        wire.PARSE_COMPLETE,
        wire.PORTAL_SUSPENDED,
        wire.READY_FOR_QUERY,
    ):
        kinds[kind] = READ
    return bytes(kinds)


FROM_SERVER: Final = _server_kinds()
"""What to do with each message of a server: pass it on unread, or read it. CopyBothResponse is unknown, since
replication is refused at login."""

READ_TAGS: Final = bytes(letter in b"ACDIM" for letter in range(256))
"""First letters of the command tags that say something of the session: ALTER, COPY, CREATE, DEALLOCATE, DISCARD, DROP,
INSERT, MERGE."""

NOBODYS_VALUES: Final = -1
"""In ServerConnection.sequences_of: no client has used it since it was opened, or everything was discarded."""
