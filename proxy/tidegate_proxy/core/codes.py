"""Which message types the per-message path knows, as tables that are indexed by a message's first byte."""

from __future__ import annotations

from typing import Final

from tidegate_proxy.protocol import wire

OF_STATEMENT: Final = ord("S")
"""In Describe and Close: a statement, not a portal."""

FROM_CLIENT: Final = frozenset(b"BCDEFHPQSXdcf")
"""Every message that a client may send once it is logged in."""

SHORT: Final = frozenset(b"CDEHSXcf")
"""Those that PostgreSQL allows only few bytes; for more it drops the connection, which here is everybody's."""

MAX_SHORT_MESSAGE: Final = 10_000
"""What a length word may say there (PQ_SMALL_MESSAGE_LIMIT in libpq.h)."""

QUERY_AFTER_EXTENDED: Final = ord("q")
"""Owed: the ReadyForQuery of a Query or FunctionCall that was sent without a Sync behind extended-protocol messages. If
one of those fails, PostgreSQL passes over it, and everything else up to a Sync."""

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
