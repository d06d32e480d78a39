"""Bytes of messages as values.

What a client sends is refused with ClientProtocolError, what a server sends with ServerProtocolError.
"""

from __future__ import annotations

import re
import struct

from tidegate_proxy.errors import ProxyError, ServerProtocolError, TargetRefusedError
from tidegate_proxy.protocol import wire
from tidegate_proxy.protocol.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    parse_startup,
)

__all__ = [
    "CancelRequest",
    "GSSENCRequest",
    "SSLRequest",
    "StartupMessage",
    "error_from_fields",
    "parse_backend_key_data",
    "parse_error_fields",
    "parse_parameter_status",
    "parse_startup",
    "read_cstring",
]

_int32 = struct.Struct("!i")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_MAX_FIELDS = 32
_MAX_FIELD = 8192


def read_cstring(body: bytes, offset: int, error: type[ProxyError]) -> tuple[bytes, int]:
    """The zero-terminated string at `offset` and the offset behind it.

    Raises: `error` where there is no zero byte.
    """
    end = body.find(b"\0", offset)
    if end < 0:
        raise error("invalid string in message")
    return body[offset:end], end + 1


def parse_error_fields(body: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or a NoticeResponse by their letter.

    An error must never hide behind another, so this takes whatever comes: texts that are not UTF-8 are
    repaired, very long ones cut, and a body that ends early yields the fields so far.
    """
    fields: dict[str, str] = {}
    offset = 0
    while offset < len(body) and body[offset] and len(fields) < _MAX_FIELDS:
        end = body.find(b"\0", offset)
        end = len(body) if end < 0 else end
        value = body[offset + 1 : min(end, offset + 1 + _MAX_FIELD)]
        fields[chr(body[offset])] = value.decode(errors="replace")
        offset = end + 1
    return fields


def error_from_fields(fields: dict[str, str]) -> TargetRefusedError:
    """The server's own error as ours, with its SQLSTATE where that is one."""
    sqlstate = fields.get("C", "")
    return TargetRefusedError(
        fields.get("M"),
        sqlstate=sqlstate if _SQLSTATE.fullmatch(sqlstate) else None,
        detail=fields.get("D"),
        hint=fields.get("H"),
    )


def parse_parameter_status(body: bytes) -> tuple[bytes, bytes]:
    """Name and value in a ParameterStatus.

    Raises: ServerProtocolError.
    """
    name, offset = read_cstring(body, 0, ServerProtocolError)
    value, offset = read_cstring(body, offset, ServerProtocolError)
    if not name or offset != len(body):
        raise ServerProtocolError("malformed ParameterStatus message from the target server")
    return name, value


def parse_backend_key_data(body: bytes) -> tuple[int, bytes]:
    """Process id and key in a BackendKeyData; the key has four bytes in protocol 3.0, up to 256 in 3.2.

    Raises: ServerProtocolError.
    """
    if not 8 <= len(body) <= 4 + wire.MAX_CANCEL_KEY:
        raise ServerProtocolError("malformed BackendKeyData message from the target server")
    return _int32.unpack_from(body)[0], body[4:]
