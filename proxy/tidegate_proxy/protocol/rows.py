"""Values in messages: rows of the proxy's own queries, and arguments of clients' statements."""

from __future__ import annotations

import struct
from collections.abc import Collection

from tidegate_proxy.errors import ServerProtocolError

_int16 = struct.Struct("!H")
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


def arguments(data: bytes, pos: int, end: int, numbers: Collection[int]) -> list[bytes | None]:
    """Some of the arguments in a Bind message, as text; None for NULL, and for what is not there or cut off.

    Parameters: `data[pos:end]` is what follows the statement's name, its NUL included; `numbers` count from 1.
    """
    found: dict[int, bytes | None] = {}
    try:
        pos += 1
        pos += 2 + 2 * _int16.unpack_from(data, pos)[0]
        count = _int16.unpack_from(data, pos)[0]
        pos += 2
        for number in range(1, min(count, max(numbers)) + 1):
            (length,) = _int32.unpack_from(data, pos)
            pos += 4
            if pos + max(length, 0) > min(end, len(data)):
                break
            if length >= 0:
                found[number] = data[pos : pos + length]
                pos += length
    except struct.error:
        pass
    return [found.get(number) for number in numbers]
