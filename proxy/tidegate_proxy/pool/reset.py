"""Making a server connection clean again after its client vanished in the midst of something."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidegate_proxy.core.codes import NOBODYS_VALUES
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import COPY_DONE, EXECUTE, IDLE, SYNC

_FAILING_EXECUTE = encode.message(EXECUTE, encode.cstring("of a client that is gone") + bytes(4))
"""Execute of a portal that does not exist: an error, or skipped after one; the transaction fails in either case."""


_CANCEL_AGAIN = 0.5
"""Seconds after which a cancelled query that still runs is cancelled again."""


async def reset(
    server: ServerConnection,
    *,
    cancel: Callable[[ServerConnection], Awaitable[None]],
    mid_message: bool,
    unsynced: bool,
    pinned: bool,
) -> bool:
    """Cancel what runs, roll back what is open, discard what was pinned.

    Parameters: `mid_message`, the server has only part of a message; `unsynced`, it waits for a Sync; `pinned`, there
    is session state to discard.
    Returns: whether the connection is as good as new; if not, it must be closed.
    Raises: ProxyError when the connection is lost meanwhile.
    """
    if server.closing:
        return False
    if mid_message:
        # Nothing that we could send would be understood. Closing alone would let the query run on.
        if server.owed:
            await cancel(server)
        return False
    if server.copy_in:
        server.transport.write(encode.copy_fail("the client is gone"))
        server.owed.append(COPY_DONE)
        unsynced = unsynced or SYNC in server.owed
    if unsynced or server.uncertain:
        # A bare Sync would commit what the client never meant to be committed yet.
        server.transport.write(_FAILING_EXECUTE + encode.sync())
        server.owed.append(SYNC)
    if server.owed:
        await cancel(server)
        if not server.uncertain:
            await _until_cancelled(server, cancel)
    if server.uncertain:
        if server.status != IDLE or server.closing:
            return False
        server.settle()
        await server.all_answered()
    if server.status != IDLE:
        await server.run("ROLLBACK")
    if server.ends_pipeline:
        server.end_pipeline()
        await server.all_answered()
    if server.stray_names:
        server.close_strays()
        await server.all_answered()
    if pinned:
        result = await server.run("DISCARD ALL")
        if result.error is not None:
            return False
        server.prepared.clear()
        server.applied = {}
        server.sequences_of, server.sequences_used = NOBODYS_VALUES, False
    return True


async def _until_cancelled(server: ServerConnection, cancel: Callable[[ServerConnection], Awaitable[None]]) -> None:
    # PostgreSQL ignores what comes before it has read the query, which would then run for as long as it likes.
    answered = asyncio.ensure_future(server.all_answered())
    try:
        while not (await asyncio.wait([answered], timeout=_CANCEL_AGAIN))[0]:
            await cancel(server)
        answered.result()
    finally:
        answered.cancel()
