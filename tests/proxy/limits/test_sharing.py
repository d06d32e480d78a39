"""Shared limits among thousands of pools: who is told that others wait, and how much a newcomer costs."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.pool.sharing import Sharing
from tidegate_proxy.pool.sharing_pool import SharingPool

MOST = 3


class OpensAtOnce(SharingPool):
    """A pool of a user, with clients that wait; what it may open is open at once. `looks` counts looks at it."""

    def __init__(self, sharing: Sharing, user: int) -> None:
        super().__init__()
        self.name = f"user {user}"
        self.looks = 0
        self._sharing = sharing
        self.join(user)

    def join(self, user: int) -> None:
        """Share a limit with the pools of the same user."""
        self._sharing.join(cast(Pool, self), [(("user", user), MOST)], target="server")

    @property
    def held(self) -> int:
        """How many there are."""
        self.looks += 1
        return super().held

    @property
    def wanted(self) -> int:
        """One for each client that waits."""
        return len(self._waiting)

    def open_more(self) -> None:
        """One connection for each client that waits."""
        while self._waiting and self._sharing.admit(cast(Pool, self), awaited=True):
            del self._waiting[next(iter(self._waiting))]
            self._servers.add(cast(Any, object()))

    def wait(self, moment: float) -> None:
        """One more client waits."""
        self._waiting[cast(Any, object())] = (moment, moment + 100)
        self.open_more()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()
        self._sharing.withdraw(cast(Pool, self))

    def close_one(self) -> None:
        """One connection is gone."""
        if self._servers:
            self._servers.pop()
            self._sharing.freed(cast(Pool, self))


def sharing_of(connections: int) -> Sharing:
    """Limits with a server that allows so many connections."""
    sharing = Sharing(100, None)
    pool = OpensAtOnce(sharing, -1)
    limit = sharing.target_of(cast(Pool, pool))
    limit.told([[b"%d" % (connections + 1), b"0", b"0"]], 0.0, 100)
    assert limit.most == connections
    return sharing


def test_one_more_user_among_thousands_is_nothing_to_the_others() -> None:
    sharing = sharing_of(100)
    pools = [OpensAtOnce(sharing, user) for user in range(2000)]
    for pool in pools[:10]:
        pool.wait(1)
    sharing.close_idle(2.0, 100.0)
    for pool in pools:
        pool.looks = 0
    newcomer = OpensAtOnce(sharing, 2000)
    newcomer.wait(3)
    newcomer.close_one()
    sharing.leave(cast(Pool, newcomer))
    # To know whether the server has room, those that have connections are asked for theirs.
    assert sum(pool.looks for pool in pools[:10]) <= 40
    assert sum(pool.looks for pool in pools[10:]) == 0


_steps = st.lists(st.tuples(st.sampled_from(["wait", "give_up", "close_one", "leave", "move"]), st.integers(0, 7)))


@given(_steps)
def test_pools_know_whether_somebody_waits_for_what_they_share(steps: list[tuple[str, int]]) -> None:
    sharing = sharing_of(5)
    pools = [OpensAtOnce(sharing, number // 2) for number in range(8)]
    for moment, (step, number) in enumerate(steps, 1):
        pool = pools[number]
        if step == "wait":
            pool.wait(moment)
        elif step == "move":
            pool.join(moment)
        elif step == "leave":
            sharing.leave(cast(Pool, pool))
            pools[number] = OpensAtOnce(sharing, moment)
        else:
            getattr(pool, step)()
        if moment % 3 == 0:
            sharing.close_idle(moment, 100.0)
        for pool in pools:
            limits = sharing.of(cast(Pool, pool))
            assert pool.contended == any(limit.claims for limit in limits)
            for limit in limits:
                assert limit.used == sum(other.held for other in limit.pools) <= (limit.most or 0)
                assert not limit.full or all(claimant.waits_since for claimant in limit.claims)
