"""Hundreds of members and their clients: the proxy's planner decides, only time and the server are played."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tidegate_proxy.fleet import planner
from tidegate_proxy.fleet.planner import Member, View

STEP = 0.25
"""Seconds of a step, in which each member sees its demand anew; so does a real one."""

STRAY_FOR = 3.0
"""Seconds for which a dead member's connections still work on their statements."""


@dataclass(frozen=True)
class Event:
    """What happens at a moment of the simulation, in seconds.

    - `join`, so many members do; `die`, so many do, at once.
    - `clients`, so many there are from now on. `crowd`, the part of them that comes to a tenth of the members.
    - `max_connections`, the server has another limit.
    """

    at: float
    what: str
    join: int = 0
    die: int = 0
    clients: int | None = None
    crowd: float | None = None
    max_connections: int | None = None


@dataclass
class Sample:
    """The fleet at one moment: connections as PostgreSQL would count them, and what the clients could use."""

    at: float
    members: int
    connections: int
    budget: int
    shares: int
    demand: int
    unmet: int
    queries: float


@dataclass
class _Process:
    id: str
    next_look: float
    weight: float
    share: int = 0
    held: int = 0
    demand: int = 0
    peaks: deque[tuple[float, int]] = field(default_factory=deque)

    def published(self) -> Member:
        return Member(self.id, max(self.share, self.held), self.held, self.peaks[0][1] if self.peaks else 0)


class Simulation:
    """Parameters: `events`; `max_connections`, of which three are reserved; `percent`, `max_connections_percent`;
    `used_by_client`, connections that one client uses on average; `seed`."""

    def __init__(
        self,
        events: Sequence[Event],
        *,
        max_connections: int = 3000,
        percent: int = 90,
        used_by_client: float = 0.008,
        seed: int = 1,
    ) -> None:
        self.samples: list[Sample] = []
        self._events = deque(sorted(events, key=lambda event: event.at))
        self._max_connections, self._percent, self._used_by_client = max_connections, percent, used_by_client
        self._chance = random.Random(seed)  # noqa: S311
        self._processes: list[_Process] = []
        self._published: dict[str, Member] = {}
        self._strays: list[tuple[float, int]] = []
        self._clients, self._crowd = 0, 0.1
        self._queries = 0

    def run(self, seconds: float) -> list[Sample]:
        """Play so many seconds."""
        for step in range(int(seconds / STEP)):
            now = step * STEP
            while self._events and self._events[0].at <= now:
                self._happen(self._events.popleft(), now)
            self._strays = [(until, count) for until, count in self._strays if until > now]
            self._work(now)
            for process in self._processes:
                if process.next_look <= now:
                    self._look(process, now)
            self._sample(now)
        return self.samples

    def _happen(self, event: Event, now: float) -> None:
        self._max_connections = event.max_connections or self._max_connections
        self._clients = self._clients if event.clients is None else event.clients
        self._crowd = self._crowd if event.crowd is None else event.crowd
        for _ in range(event.join):
            identity = f"{self._chance.getrandbits(32):08x}"
            # They start within two seconds, and connections come to them as a load balancer spreads them: unevenly.
            starts = now + self._chance.uniform(0, 2)
            self._processes.append(_Process(identity, starts, self._chance.uniform(0.7, 1.3)))
        for process in self._chance.sample(self._processes, event.die):
            self._processes.remove(process)
            self._published.pop(process.id, None)
            self._strays.append((now + STRAY_FOR, process.held))

    def _work(self, now: float) -> None:
        crowded = max(1, len(self._processes) // 10)
        for part, processes in (
            (self._crowd, self._processes[:crowded]),
            (1 - self._crowd, self._processes[crowded:]),
        ):
            weight = sum(process.weight for process in processes)
            for process in processes:
                mean = self._clients * part * process.weight / weight * self._used_by_client
                process.demand = max(0, round(self._chance.gauss(mean, mean**0.5)))
                while process.peaks and process.peaks[-1][1] <= process.demand:
                    process.peaks.pop()
                process.peaks.append((now, process.demand))
                while now - process.peaks[0][0] > planner.DEMAND_HELD:
                    process.peaks.popleft()
                # What was opened stays open until the share says otherwise; half of what is busy ends in a step.
                process.held = max(process.held, min(process.demand, process.share))
                excess = process.held - process.share
                if excess > 0:
                    process.held -= max(process.held - process.demand, (excess + 1) // 2) if excess > 1 else 1
                    process.held = max(process.held, process.share)

    def _view(self) -> View:
        room = self._max_connections - 3
        members = list(self._published.values())
        connections = self._connections()
        return View(min(room, self._max_connections * self._percent // 100), room, connections, connections, members)

    def _connections(self) -> int:
        held = sum(process.held for process in self._processes) + sum(count for _, count in self._strays)
        return held + planner.CONTROL_CONNECTIONS * len(self._published)

    def _look(self, process: _Process, now: float) -> None:
        self._published[process.id] = process.published()
        self._queries += 1
        view = self._view()
        me = self._published[process.id]
        wanted = planner.new_share(view, process.id, 0, 0)
        if wanted < process.share:
            process.share = wanted
        elif wanted > me.share and process.held <= process.share:
            self._queries += 1
            process.share += min(wanted - me.share, planner.claimable(view))
            self._published[process.id] = process.published()
        hurried = process.demand > process.share or process.held > process.share
        process.next_look = now + planner.interval(len(view.members), hurried=hurried)

    def _sample(self, now: float) -> None:
        view = self._view()
        self.samples.append(
            Sample(
                now,
                len(self._published),
                view.connections,
                view.budget,
                sum(member.share for member in view.members),
                sum(process.demand for process in self._processes),
                sum(max(0, process.demand - process.share) for process in self._processes),
                self._queries / STEP,
            )
        )
        self._queries = 0


SCENARIO = (
    Event(0, "100 members join, 50,000 clients", join=100, clients=50_000),
    Event(60, "100 more, 100,000 clients", join=100, clients=100_000),
    Event(120, "half of all clients to a tenth of the members", crowd=0.5),
    Event(180, "40 members die", die=40),
    Event(240, "40 join, clients even again", join=40, crowd=0.1),
    Event(300, "max_connections 3000 to 1600", max_connections=1600),
)
"""Everything that a fleet goes through, a minute each."""

SECONDS = 360.0


def settled_after(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Seconds from `begin` until the part of the demand that the shares do not allow stays, up to `end`, within two
    percentage points of what it is on average in the last ten seconds; over two seconds, since demand is random."""
    part = [sample for sample in samples if begin <= sample.at < end]
    last = [sample for sample in part if sample.at >= end - 10]
    level = _unmet(last)
    width = int(2 / STEP)
    late = [
        sample.at
        for index, sample in enumerate(part)
        if _unmet(part[max(0, index - width + 1) : index + 1]) > level + 0.02
    ]
    return max(late, default=begin - STEP) + STEP - begin


def _unmet(samples: Sequence[Sample]) -> float:
    return sum(sample.unmet for sample in samples) / max(1, sum(sample.demand for sample in samples))
