"""Limits that can be judged before anything is deployed."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_infra.errors import DeploymentError
from tidegate_infra.proxy_target import ProxyTarget


@dataclass(frozen=True)
class Limits:
    """`max_connections_percent` of what the engine accepts, of those `max_idle_connections_percent` unused, for all
    tasks together; `pool_size` per database and user in each task."""

    max_connections_percent: int
    max_idle_connections_percent: int | None
    pool_size: int | None


def check_limits(limits: Limits, target: ProxyTarget) -> None:
    """Raises: DeploymentError for a percentage that is none, and for a pool larger than the engine's share."""
    percent, idle, size = limits.max_connections_percent, limits.max_idle_connections_percent, limits.pool_size
    if not 1 <= percent <= 100:
        raise DeploymentError(f"max_connections_percent: {percent} must be from 1 to 100")
    if idle is not None and not 0 <= idle <= percent:
        raise DeploymentError(
            f"max_idle_connections_percent: {idle} must be from 0 to max_connections_percent, which is {percent}"
        )
    if size is not None and size < 1:
        raise DeploymentError(f"pool_size: {size} must be at least 1")
    if size is None or target.max_connections is None:
        return
    budget = target.max_connections * percent // 100
    if size > budget:
        raise DeploymentError(
            f"pool_size: {size} is more than {budget}, which is {percent} % of {target.max_connections} connections "
            f"that {target.address} accepts: lower pool_size, take a larger instance or, if its parameter group says "
            "otherwise, give the target max_connections"
        )
