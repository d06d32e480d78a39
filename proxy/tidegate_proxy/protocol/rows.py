"""Rows of the proxy's own queries."""

from __future__ import annotations

import struct

from tidegate_proxy.errors import ServerProtocolError

_int32 = struct.Struct("!i")


def parse_data_row(body: bytes) -> list[bytes | None]:
    """Values in a DataRow as they came, None for NULL.

    Raises: ServerProtocolError.
    """
    try:
        values: list[bytes | None] = []
        pos = 2
        for _ in range(int.from_bytes(body[:2], "big")):
            (length,) = _int32.unpack_from(body, pos)
            pos += 4
            if length < 0:
                values.append(None)
                continue
            values.append(body[pos : pos + length])
            pos += length
    except struct.error:
        pos = -1
    if pos != len(body):
        raise ServerProtocolError("malformed DataRow message from the target server")
    return values
