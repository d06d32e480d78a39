"""What the proxy has counted since it began: by pool, and as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tidegate_proxy.core.statistics import Statistics
from tidegate_proxy.metrics.histogram import grown, summed

CONSOLE = "pgbouncer"
"""Name of the console's database, and of the user that PgBouncer shows for it."""

OTHERS = "*"
"""Name for what was counted under names that are not the configuration's and under which no server was reached."""

SUMS = (
    "assignments",
    "waited",
    "transactions",
    "requests",
    "errors",
    "received",
    "sent",
    "client_parses",
    "server_parses",
    "binds",
    "transaction_time",
    "request_time",
    "wait_time",
)
"""What of Statistics is a number."""

_HISTOGRAMS = ("alone", "late", "served", "responded", "whole", "waits")
_NUMBERS = (
    "servers_requested",
    "servers_requested_tls",
    "servers_opened",
    "servers_failed",
    "servers_closed",
    "server_lifetime",
    "borrow_timeouts",
    "deadline_cancels",
)


class PoolCounts:
    """Counters of one pool, or of several together.

    Parameters: `target`, the server that the pool begins with; see `move`.

    `plain` and `tls`: of its clients, by how they are connected. The others are counted by the pool: server connections
    asked for (and those of them by TLS), opened, failed to open and closed; the age of the closed ones in seconds;
    borrows that timed out; transactions that were ended at their client's deadline; pins by reason.
    """

    def __init__(self, target: str = "") -> None:
        self.target = target
        self.plain = Statistics()
        self.tls = Statistics()
        self.servers_requested = 0
        self.servers_requested_tls = 0
        self.servers_opened = 0
        self.servers_failed = 0
        self.servers_closed = 0
        self.server_lifetime = 0.0
        self.borrow_timeouts = 0
        self.deadline_cancels = 0
        self.pins: Counter[str] = Counter()
        self._earlier: dict[str, PoolCounts] = {}

    def move(self, target: str) -> None:
        """The pool uses another server from now on; what was counted before stays with the one before."""
        if target == self.target:
            return
        # What led to a first connection belongs to the server that it leads to.
        if self._earlier or self.servers_opened or self.servers_failed:
            part = PoolCounts()
            part.add(self.by_target()[self.target])
            self._earlier[self.target] = part
        self.target = target

    def by_target(self) -> dict[str, PoolCounts]:
        """What was counted while the pool used each server."""
        if not self._earlier:
            return {self.target: self}
        # Clients go on counting where they began to: the latest part is what is more than all the others.
        recent = PoolCounts()
        recent.add(self)
        for part in self._earlier.values():
            recent.subtract(part)
        parts = dict(self._earlier)
        if self.target in parts:
            recent.add(parts[self.target])
        return parts | {self.target: recent}

    def call_slow(self, seconds: float) -> None:
        """From now on, requests that take so long are slow; 0 for none."""
        for part in (self.plain, self.tls):
            part.slow, part.keeps_requests = seconds, seconds > 0

    def statistics(self, *, secure: bool) -> Statistics:
        """Where a client's transactions are counted."""
        return self.tls if secure else self.plain

    @property
    def clients(self) -> Statistics:
        """All clients together, as of now."""
        together = Statistics()
        for part in (self.plain, self.tls):
            _add(together, part)
        return together

    def add(self, other: PoolCounts) -> None:
        """Count what the other has counted, too."""
        _add(self.plain, other.plain)
        _add(self.tls, other.tls)
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.pins.update(other.pins)

    def subtract(self, other: PoolCounts) -> None:
        """Count what the other has counted no longer."""
        for mine, its in ((self.plain, other.plain), (self.tls, other.tls)):
            for name in SUMS:
                setattr(mine, name, getattr(mine, name) - getattr(its, name))
            for name in _HISTOGRAMS:
                setattr(mine, name, grown(getattr(mine, name), getattr(its, name)))
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) - getattr(other, name))
        self.pins.subtract(other.pins)


def _add(total: Statistics, part: Statistics) -> None:
    for name in SUMS:
        setattr(total, name, getattr(total, name) + getattr(part, name))
    for name in _HISTOGRAMS:
        setattr(total, name, summed(getattr(total, name), getattr(part, name)))


class Counts:
    """Everything that is counted.

    Parameters: `is_named`, whether the configuration names a database.

    Of clients: `received` connections, `accepted` logins, `refused` ones for authentication or TLS, `failed` ones for
    any other reason, and `closed` after a login. `console`: queries of the admin console.
    """

    def __init__(self, is_named: Callable[[str], bool]) -> None:
        self._is_named = is_named
        self.received = 0
        self.accepted = 0
        self.refused = 0
        self.failed = 0
        self.closed = 0
        self.console = 0
        self._pools: dict[tuple[str, str], PoolCounts] = {}
        self._slow = 0.0
        self._past: dict[tuple[str, str], PoolCounts] = {}

    def of_pool(self, database: str, user: str, target: str) -> PoolCounts:
        """The counters of a new pool on this target."""
        self.retire(database, user)
        counts = self._pools[database, user] = PoolCounts(target)
        counts.call_slow(self._slow)
        return counts

    def call_slow(self, seconds: float) -> None:
        """From now on, requests that take so long are slow; 0 for none."""
        self._slow = seconds
        for counts in self._pools.values():
            counts.call_slow(seconds)

    def retire(self, database: str, user: str) -> None:
        """The pool is gone; what it has counted stays with its database."""
        counts = self._pools.pop((database, user), None)
        if counts is None:
            return
        for target, part in counts.by_target().items():
            # Clients may invent any number of names: what led nowhere is kept under one.
            keeps_name = (
                self._is_named(database)
                or part.servers_opened > 0
                or (database, target) in self._past
                or any(name == database and target in pool.by_target() for (name, _), pool in self._pools.items())
            )
            self._past.setdefault((database if keeps_name else OTHERS, target), PoolCounts()).add(part)

    def sums(self) -> dict[str, dict[str, float]]:
        """The numbers among the counters of every database's clients, those of former pools included.

        As with PgBouncer, the console is a database, too: so there is one in any case.
        """
        of_console: dict[str, float] = dict.fromkeys(SUMS, 0)
        databases = {CONSOLE: of_console | {"transactions": self.console, "requests": self.console}}
        for (database, _), counts in self._all():
            sums = databases.setdefault(database, dict.fromkeys(SUMS, 0))
            for name in SUMS:
                sums[name] += getattr(counts.plain, name) + getattr(counts.tls, name)
        return databases

    def by_database_and_target(self) -> dict[tuple[str, str], PoolCounts]:
        """The counters of every database on every target, those of former pools included."""
        groups: dict[tuple[str, str], PoolCounts] = {}
        for key, counts in self._all():
            groups.setdefault(key, PoolCounts()).add(counts)
        return groups

    def _all(self) -> Iterable[tuple[tuple[str, str], PoolCounts]]:
        yield from self._past.items()
        for (database, _), counts in self._pools.items():
            for target, part in counts.by_target().items():
                yield (database, target), part
