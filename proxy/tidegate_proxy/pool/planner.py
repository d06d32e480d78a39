"""The pool's decisions as pure functions: numbers in, decisions out. Nothing here waits, opens or closes."""

from __future__ import annotations

import random

_FIRST_RETRY, _LONGEST_RETRY = 0.05, 5.0


def connections_to_open(*, wanted: int, opening: int, open_now: int, limit: int) -> int:
    """How many server connections to begin opening.

    Parameters: `wanted`, how many could be used at once by those who wait; `opening`, how many are being opened;
    `open_now`, how many there are; `limit`, the pool's size.
    """
    return max(0, min(wanted - opening, limit - opening - open_now))


def retry_delay(failures: int) -> float:
    """Seconds to wait after the given number of failures in a row: doubling, with full jitter, so that the proxies of a
    fleet do not come all at once. (The scheme of "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
    """
    return random.uniform(0, min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(failures, 10)))  # noqa: S311


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
