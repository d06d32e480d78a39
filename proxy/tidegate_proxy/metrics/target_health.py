"""How the targets are, and how many connections each allows, for metrics and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.targets.health import TargetHealth, TargetReason, TargetRole, TargetState

if TYPE_CHECKING:
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy


def target_health(proxy: Proxy) -> list[TargetHealth]:
    """Every target that pools use, as the pools found it."""
    targets: dict[str, list[Pool]] = {}
    for pool in proxy.pools:
        targets.setdefault(pool.target, []).append(pool)
    return [_health(target, pools) for target, pools in targets.items()]


def _health(target: str, pools: list[Pool]) -> TargetHealth:
    host, _, port = target.rpartition(":")
    failed = next((pool.last_error for pool in pools if pool.last_error is not None), None)
    if any(pool.servers for pool in pools):
        state, failed = TargetState.AVAILABLE, None
    else:
        state = TargetState.REGISTERING if failed is None else TargetState.UNAVAILABLE
    return TargetHealth(
        host,
        int(port),
        tuple(sorted({pool.database for pool in pools})),
        TargetRole.UNKNOWN,
        state,
        TargetReason.CONNECTION_FAILED if failed is not None else None,
        str(failed) if failed is not None else None,
        0.0,
    )


def connections_allowed(proxy: Proxy) -> dict[str, int]:
    """How many server connections may be open to each target, where that is known."""
    allowed: dict[str, int] = {}
    for pool in proxy.pools:
        most = pool.target_allows
        if most is not None:
            allowed[pool.target] = most
    return allowed
