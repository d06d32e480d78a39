"""How the targets are, and how many connections each allows, for metrics and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.targets.health import TargetHealth

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy


def target_health(proxy: Proxy) -> list[TargetHealth]:
    """Every target that is watched."""
    return proxy.targets.health()


def connections_allowed(proxy: Proxy) -> dict[str, int]:
    """How many server connections may be open to each target, where that is known."""
    allowed: dict[str, int] = {}
    for pool in proxy.pools:
        most = pool.target_allows
        if most is not None:
            allowed[pool.target] = most
    return allowed
