"""How the members of a fleet share one PostgreSQL server's connections: numbers in, decisions out.

Each member has a *share*, the most server connections that it may have, and publishes it with what it holds and what it
could use. From the same published numbers all members compute the same parts. Who has more than its part, while
somebody else needs it, gives up and publishes the smaller share only when the connections are closed; who has less
takes what is free, one member at a time (see `queries.CLAIM`). So the sum of all shares never exceeds the budget,
however old a member's view is.

Nothing here waits, connects or reads a clock: the proxy and the simulation run the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DEMAND_HELD = 10.0
"""Seconds for which a peak of demand counts: shares shall follow the load, not each burst."""

LOOKS_PER_SECOND = 50
"""Most looks of a whole fleet at its server per second: larger fleets look less often. One takes PostgreSQL one to two
milliseconds with a few hundred connections, so this is a tenth of one core at most."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks of a member of a small fleet."""

HURRIED_INTERVAL = 0.25
"""The same while clients wait for a connection that the share does not allow, or while the share is being reduced."""

CONTROL_CONNECTIONS = 2
"""Of each member: the one on which it looks at the fleet, and the one on which it looks at the server's health."""

LEAST_SPARE, MOST_SPARE = 4, 20
"""Connections for members that join at once, between these."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a member publishes.

    - `id`: eight hexadecimal digits.
    - `share`: the most server connections that it may have at present. `held`: those that it has or is opening.
    - `demand`: how many it could use at once, at the latest peak.
    - `address`: where it takes CancelRequests that other members pass on, packed; empty for nowhere.
    """

    id: str
    share: int
    held: int
    demand: int
    address: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What one look at the server has shown.

    - `budget`: how many connections to the server may be the fleet's; see `pool.planner.budget`.
    - `room`: how many the server has for all ordinary users.
    - `connections`: how many there are of all users; `ours`, of the users that members log in as.
    - `members`: all of them, this one included.
    """

    budget: int
    room: int
    connections: int
    ours: int
    members: Sequence[Member]

    @property
    def controls(self) -> int:
        """Control connections."""
        return CONTROL_CONNECTIONS * len(self.members)

    @property
    def others(self) -> int:
        """Connections that are no member's."""
        return max(0, self.connections - self.controls - sum(member.held for member in self.members))

    @property
    def strays(self) -> int:
        """Those of the members' users that no member holds: mostly a dead member's, while they still work."""
        return max(0, self.ours - self.controls - sum(member.held for member in self.members))


def kept_back(members: int) -> int:
    """Connections of the budget that are no member's share: control connections, and a few for those of members that
    join at once, since they must connect before anybody can know of them."""
    return CONTROL_CONNECTIONS * members + min(MOST_SPARE, max(LEAST_SPARE, members))


def to_share(view: View, others: int, strays: int) -> int:
    """How many connections the members may share; parameters as of `new_share`."""
    return max(0, min(view.budget - strays, view.room - others) - kept_back(len(view.members)))


def parts(total: int, members: Sequence[Member]) -> dict[str, int]:
    """What each member should have, by its id: as much as it can use, the least demanding first, or equal parts of what
    there is; what nobody needs is divided equally."""
    count = len(members)
    least = _least(total, count)
    ordered = sorted(members, key=lambda member: (max(member.demand, least), member.id))
    result = {}
    left = total
    for index, member in enumerate(ordered):
        # Rounded up for the last ones, who want most.
        result[member.id] = min(max(member.demand, least), left // (count - index))
        left -= result[member.id]
    for index, member in enumerate(ordered):
        result[member.id] += left // (count - index)
        left -= left // (count - index)
    return result


def _least(total: int, members: int) -> int:
    """What also an idle member has, so that its first clients need not wait: a quarter of an equal part."""
    return min(total // members, max(1, total // (4 * members)))


def new_share(view: View, me: str, others: int, strays: int) -> int:
    """What this member's share should become.

    Parameters: `me`, its id; `others`, connections that are no member's and are to be respected; `strays`, those of
    them that are of the members' users. As `claimable` has them, or what it does not let one have nobody would give up.
    Returns: less than its present share when it must give up some, which is its own affair; more when it may try to
    claim so many; see `claimable`.
    """
    total = to_share(view, others, strays)
    wanted = parts(total, view.members)
    least = _least(total, len(view.members))
    mine = next(member for member in view.members if member.id == me)
    part = wanted[me]
    free = total - sum(member.share for member in view.members)
    lacking = sum(max(0, min(wanted[member.id], max(member.demand, least)) - member.share) for member in view.members)
    if mine.share < part:
        if max(mine.demand, least) > mine.share:
            return part
        # Nobody waits for it: what others need is left to them, and a small difference moves nothing.
        spare = min(part - mine.share, free - lacking)
        return mine.share + spare if spare > part // 10 else mine.share
    surplus = sum(max(0, member.share - wanted[member.id]) for member in view.members)
    if lacking <= free or surplus == 0:
        return mine.share
    excess = mine.share - part
    return mine.share - min(excess, -(-excess * (lacking - free) // surplus))


def claimable(view: View) -> int:
    """By how much some member's share may grow at this moment; what `queries.CLAIM` computes on the server, where all
    numbers are of the same moment.

    Strays count, since nobody's share covers them; so do other users' connections where the server is nearly full.
    """
    shares = sum(member.share for member in view.members)
    in_budget = view.budget - kept_back(len(view.members)) - shares - view.strays
    in_room = view.room - view.controls - shares - view.others
    return max(0, min(in_budget, in_room))


def interval(members: int, *, hurried: bool) -> float:
    """Seconds until a member looks again; `hurried`, somebody waits for what it finds out."""
    return max(HURRIED_INTERVAL if hurried else LOOK_INTERVAL, members / LOOKS_PER_SECOND)
