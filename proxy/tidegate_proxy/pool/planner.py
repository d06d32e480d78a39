"""The pool's decisions as pure functions: numbers in, decisions out. Nothing here waits, opens or closes."""

from __future__ import annotations

import random

_FIRST_RETRY = 0.05

MIN_TURN = 0.25
"""Seconds for which a server connection stays with its pool before another pool may have its place, where there are
fewer places than pools that want one: opening a connection costs tens of milliseconds."""

RE_READ = 30.0
"""Seconds after which `max_connections` is read again with the next connection that is opened."""


def pool_limit(*, size: int, reserve: int, reserve_after: float, waited: float) -> int:
    """Most server connections of a pool at present.

    Parameters: `size`; `reserve`, so many more once a client has `waited` for `reserve_after`, both in seconds; a
    `reserve_after` of 0 is never.
    """
    return size + reserve if 0 < reserve_after <= waited else size


def connections_to_open(
    *, wanted: int, opening: int, open_now: int, limit: int, minimum: int = 0, failing: bool = False
) -> int:
    """How many server connections to begin opening.

    Parameters: `wanted`, how many could be used at once by those who wait; `opening`, how many are being opened;
    `open_now`, how many there are; `limit`, the most there may be; `minimum`, how many there shall be in any case;
    `failing`, the latest attempt was in vain: one at a time is enough to see whether that has changed.
    """
    count = min(max(wanted - opening, minimum - opening - open_now), limit - opening - open_now)
    return max(0, min(count, 1 - opening) if failing else count)


def budget(*, max_connections: int, reserved: int, percent: int) -> int:
    """How many connections to a PostgreSQL server may be the proxy's own.

    Parameters: `max_connections`, as the server has it; `reserved`, how many of them it keeps for superusers and the
    like; `percent`, the setting `max_connections_percent`.
    Returns: at least 1.
    """
    return max(1, min(max_connections - reserved, max_connections * percent // 100))


def surplus_idle(*, idle: int, max_connections: int, percent: int) -> int:
    """How many of the server connections that have been idle for long are too many: see
    `max_idle_connections_percent`."""
    return max(0, idle - max_connections * percent // 100)


def must_yield(
    *,
    limit: int,
    pools: int,
    held: int,
    waits_since: float | None,
    claimant_holds: int,
    claimant_waits_since: float,
    open_for: float,
) -> bool:
    """Whether a free server connection is closed, so that another pool can open one in its place.

    All pools that want connections under a limit that they share are entitled to equal parts of it. A connection moves
    only towards that, or, where there are fewer places than pools, to a pool that has none and has waited longer; so
    that in a steady state none moves at all.

    Parameters: `limit`, the shared limit; `pools`, how many of those that share it want connections; `held`, how many
    the holder has, and `waits_since`, since when its first client waits, None if none does; `claimant_holds` and
    `claimant_waits_since`, the same of the other; `open_for`, how long the connection has been open. Times in seconds.
    """
    if waits_since is None:
        return True
    part = max(1, limit // max(1, pools))
    if claimant_holds < part < held:
        return True
    return claimant_holds == 0 and claimant_waits_since < waits_since and open_for >= MIN_TURN


def retry_delay(failures: int, longest: float) -> float:
    """Seconds to wait after the given number of failures in a row: doubling up to `longest`, with full jitter, so that
    the proxies of a fleet do not come all at once. (The scheme of "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.)
    """
    return random.uniform(0, min(longest, _FIRST_RETRY * 2 ** min(failures, 10)))  # noqa: S311


def is_worn_out(*, now: float, created: float, lifetime: float) -> bool:
    """Whether a server connection has reached `server_lifetime`; all times in seconds, 0 for no limit."""
    return lifetime > 0 and now - created >= lifetime


def idle_for_too_long(*, now: float, idle_since: float, idle_timeout: float) -> bool:
    """Whether a server connection has been unused for `server_idle_timeout`; all times in seconds, 0 for no limit."""
    return idle_timeout > 0 and now - idle_since >= idle_timeout


def is_final(sqlstate: str) -> bool:
    """Whether a failed login to a server will fail again until somebody changes something: wrong password or no such
    role (class 28), no such database (3D000), no permission (42501), no TLS that can be trusted (08001)."""
    return sqlstate[:2] in ("28", "3D") or sqlstate in ("42501", "08001")
