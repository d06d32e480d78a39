"""Reading a request's body up to a limit."""

from __future__ import annotations

from aiohttp import StreamReader


async def read_body(content: StreamReader, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is known to have more than `limit` bytes."""
    chunks = []
    size = 0
    while chunk := await content.readany():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)
