"""The fields of log records that say whom and what they are about, for logs in JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from tidegate_proxy.core.client import ClientConnection
    from tidegate_proxy.pool.opening import OpeningPool
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.protocol.startup import StartupMessage
    from tidegate_proxy.targets.endpoint import Endpoint


def of_client(event: str, pool: Pool, client: ClientConnection, **more: object) -> dict[str, object]:
    """Fields for something that a client did, or that was done to it.

    `application_name` is what the client says it is: with Tidegate's layer, the name of the function. `request_id` is
    what it says its transaction is for: with the layer, the invocation.
    """
    request = {} if client.request_id is None else {"request_id": client.request_id.decode()}
    return {
        "event": event,
        "database": pool.database,
        "user": pool.user,
        "client": client.pid,
        "application_name": client.session.parameters.get("application_name"),
        "address": address(client.transport),
        **request,
        **more,
    }


def of_login(
    event: str, startup: StartupMessage | None, transport: asyncio.BaseTransport | None, **more: object
) -> dict[str, object]:
    """Fields for a client that is not logged in, so far as it has said who it is."""
    fields: dict[str, object] = {"event": event, "address": address(transport) if transport is not None else None}
    if startup is not None:
        fields |= {
            "database": startup.database,
            "user": startup.user,
            "application_name": startup.parameters.get("application_name"),
        }
    return fields | more


def of_pool(event: str, pool: OpeningPool, **more: object) -> dict[str, object]:
    """Fields for something that concerns a pool."""
    return {"event": event, "database": pool.database, "user": pool.user, "target": pool.target, **more}


def of_target(event: str, target: Endpoint | None, **more: object) -> dict[str, object]:
    """Fields for something that concerns a server, whoever uses it."""
    return {"event": event, "target": str(target), **more}


def address(transport: asyncio.BaseTransport) -> str | None:
    """Where a client comes from; None if that is not known any more."""
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else None


def seconds_since(moment: float) -> float:
    """How long ago this moment of the event loop's time was, in seconds to the millisecond."""
    return round(time.monotonic() - moment, 3)
