"""How many failed logins one source address may have."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache

ALL_USERS_FACTOR = 10
"""How many times more failures an address may have with all users together than with one of them."""

MAX_ENTRIES = 20_000
"""Addresses, and addresses with users, that are remembered; beyond that the ones longest without a failure are
forgotten. About 5 MB."""


class LoginLimits:
    """Leaky buckets: each failure pours one in, and `per_minute` a minute flow out; a full one means that every further
    attempt fails. Only the address that fails is concerned. It is counted with each of its users, so that a function
    with a wrong password locks out neither the others behind its address nor itself as another user; and as a whole,
    with ALL_USERS_FACTOR times as much room, so that many user names do not help.

    Parameters: `per_minute`, 0 for no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        # Level and time of the last failure, by source and user; "" is all users. The latest failure stands last.
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def exceeded(self, source: str, user: str, now: float) -> bool:
        """Whether an attempt must fail now. Parameters: `source`, from `source_of`; `now`, seconds of a clock."""
        if not self._per_minute or not self._buckets:
            return False
        return any(
            self._level((source, name), now, room) > room - 1
            for name, room in ((user, self._per_minute), ("", self._per_minute * ALL_USERS_FACTOR))
        )

    def failed(self, source: str, user: str, now: float) -> bool:
        """Count a failed login. Returns: whether it was the one that reached a limit."""
        if not self._per_minute:
            return False
        before = self.exceeded(source, user, now)
        for name, room in ((user, self._per_minute), ("", self._per_minute * ALL_USERS_FACTOR)):
            key = (source, name)
            self._buckets[key] = (min(self._level(key, now, room) + 1, room), now)
            self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_ENTRIES:
            self._buckets.popitem(last=False)
        return not before and self.exceeded(source, user, now)

    def forgive(self, source: str, user: str) -> None:
        """Take back one failure that turned out to be none."""
        for name in (user, ""):
            level, since = self._buckets.get((source, name), (0.0, 0.0))
            if level:
                self._buckets[source, name] = (max(0.0, level - 1), since)

    def _level(self, key: tuple[str, str], now: float, per_minute: int) -> float:
        level, since = self._buckets.get(key, (0.0, now))
        return max(0.0, level - (now - since) * per_minute / 60)


@lru_cache(maxsize=4096)
def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 of an IPv6 address, which is the least that anybody has.

    Parameters: `address`, as `getpeername` has it.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
