"""A member's share, as the pools see it: a limit on the server connections of this process."""

from __future__ import annotations

from collections.abc import Callable

from tidegate_proxy.pool.sharing import TargetLimit


class FleetLimit(TargetLimit):
    """What one PostgreSQL server allows this member of a fleet. None is opened before there is a share.

    Parameters: `refused`, called when the server has refused a connection for want of room.
    """

    def __init__(self, refused: Callable[[], None]) -> None:
        super().__init__()
        self._refused = refused
        self.most = 0
        # While nobody knows of this member, others may take what it does not hold: nothing may be opened then.
        self.frozen = True
        # Without a control connection, for good: the limit is that of a process alone.
        self.alone = False

    @property
    def closed_for_now(self) -> bool:
        """Whether nobody knows of this member, which may give up nothing to open another: its place is others' then."""
        return super().closed_for_now if self.alone else self.frozen

    @property
    def excess(self) -> int:
        """How many connections must be closed as soon as they are free."""
        return 0 if self.alone or self.frozen else max(0, self.used - (self.most or 0))

    @property
    def demand(self) -> int:
        """How many connections could be used at once, were it for the share."""
        return sum(
            min(pool.limits.pool_size + pool.limits.reserve_pool_size, pool.held - len(pool.idle) + pool.waiters)
            for pool in self.pools
        )

    @property
    def hungry(self) -> bool:
        """Whether somebody waits for a connection that the share does not allow."""
        return any(pool.waiters for pool in self.claims)

    def must_ask(self, now: float) -> bool:
        """Whether the next connection shall ask what the server allows, for want of a control connection."""
        return self.alone and super().must_ask(now)

    def doubt(self) -> None:
        """The server has refused a connection."""
        if self.alone:
            super().doubt()
        else:
            self._refused()

    def apply(self, percent: int) -> None:
        """`max_connections_percent` has this value, which the next look takes into account."""
        if self.alone:
            super().apply(percent)

    def give_up(self) -> None:
        """Work like a process alone from now on."""
        self.alone, self.most = True, None
