"""What is done with a server connection between its login and its first client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ProxyError, TargetRefusedError, TargetUnavailableError
from tidegate_proxy.pool.sharing import ASK_FOR_LIMITS, Sharing
from tidegate_proxy.protocol import decode

if TYPE_CHECKING:
    from tidegate_proxy.pool.opening import OpeningPool
    from tidegate_proxy.pool.route import Route


async def prepare(server: ServerConnection, pool: OpeningPool, sharing: Sharing, route: Route) -> None:
    """Ask whether it is the right server, and what it allows, if that is not known, and run `init_query`.

    Raises: TargetUnavailableError when it is the wrong one; TargetRefusedError when `init_query` fails; ProxyError when
    the connection is lost. It is closed then.
    """
    timeout = pool.limits.server_connect_timeout
    try:
        async with asyncio.timeout(timeout):
            await route.confirm(server)
            await _read_limits(server, pool, sharing)
            if pool.limits.init_query is not None:
                await initialize(server, pool.limits.init_query)
    except TimeoutError:
        late = TargetUnavailableError(f"the target server did not answer within {timeout:g} s after the login")
        server.fail(late)
        raise late from None
    except ProxyError as error:
        server.fail(error)
        raise


async def initialize(server: ServerConnection, init_query: str) -> None:
    """Run `init_query`. Raises: TargetRefusedError when it fails."""
    answer = await server.run(init_query)
    if answer.error is not None:
        refused = decode.error_from_fields(answer.error)
        raise TargetRefusedError(f"init_query failed: {refused.message}", sqlstate=refused.sqlstate)


async def _read_limits(server: ServerConnection, pool: OpeningPool, sharing: Sharing) -> None:
    loop = asyncio.get_running_loop()
    target = sharing.target_of(pool)
    if target.must_ask(loop.time()):
        answer = await server.run(ASK_FOR_LIMITS)
        target.told(None if answer.error is not None else answer.rows, loop.time(), sharing.percent)
        # What was waited for may be possible now.
        loop.call_soon(sharing.freed, pool)
