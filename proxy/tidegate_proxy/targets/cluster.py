"""The servers of one database cluster: which of them is the writer, and who wants to know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from tidegate_proxy import events
from tidegate_proxy.errors import TargetUnavailableError
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.targets import planner
from tidegate_proxy.targets.aurora import instance_endpoints
from tidegate_proxy.targets.control import Facts
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.targets.health import TargetHealth, TargetReason, TargetRole, TargetState
from tidegate_proxy.targets.planner import Access
from tidegate_proxy.targets.target import Target

logger = logging.getLogger(__name__)

_SEARCH_FOR = 300.0
"""Seconds for which a lost writer is looked for at `planner.SEARCH_INTERVAL`; then it is taken not to come soon."""


class View:
    """A cluster as one pool sees it.

    Parameters: `access`, what the pool wants; `connector`, how it logs in; `changed`, called when it should look anew.
    """

    def __init__(self, cluster: Cluster, access: Access, connector: Connector, changed: Callable[[], None]) -> None:
        self.access = access
        self.connector = connector
        self.changed = changed
        self._cluster = cluster

    async def place(self, load: dict[Endpoint, int]) -> Place:
        """Where to open the next connection, once each target has been looked at that might be the one.

        Parameters: `load`, the pool's connections by endpoint.
        Raises: TargetUnavailableError when there is nothing to do but wait until `changed` is called.
        """
        while True:
            found = self._cluster.candidates(self.access)
            if found:
                return self._cluster.least_loaded(found, load)
            if not self._cluster.undecided:
                raise self._cluster.why_unavailable(self.access)
            await self._cluster.next_change()

    @property
    def target(self) -> Endpoint | None:
        """The server that connections are opened to, the first of several; None if there is none at present."""
        return next((target.endpoint for target in self._cluster.candidates(self.access)), None)

    def suits(self, place: Place) -> bool:
        """Whether a connection that was opened to `place` may still be used."""
        return any(target.is_at(place) for target in self._cluster.candidates(self.access))

    def is_told(self, place: Place) -> bool:
        """Whether the control connection has been able to say whether `place` takes writes."""
        return self._cluster.role_of(place.endpoint) is not TargetRole.UNKNOWN

    def told(self, place: Place, facts: Facts) -> None:
        """What another connection to `place` says of its server. Raises: TargetUnavailableError unless writes may go
        there."""
        self._cluster.learn(place.endpoint, facts)
        if facts.read_only:
            raise TargetUnavailableError(f"{place.endpoint} takes no writes")
        if not self.suits(place):
            raise TargetUnavailableError(f"{place.endpoint} is a primary that another one has succeeded")

    def doubt(self, place: Place) -> None:
        """Something speaks against it: have it looked at now."""
        self._cluster.doubt(place.endpoint)

    def succeeded(self, place: Place) -> bool:
        """Whether writes go to another server by now, and nothing answers at this one."""
        return self.access.role == "writer" and self._cluster.succeeded(place)

    def replaced(self, place: Place) -> bool:
        """Whether there is another server to write to, and nothing keeps this one from taking writes that are lost."""
        return self.access.role == "writer" and self._cluster.replaced(place)

    def looked_since(self, place: Place, moment: float) -> bool:
        """Whether its server has answered a question that was put after `moment` (of the loop's clock)."""
        return self._cluster.looked_since(place.endpoint, moment)

    def leave(self) -> None:
        """The pool is gone."""
        self._cluster.left(self)


class Cluster:
    """Watches its targets from the first `join` on.

    Parameters
    - `seeds`: its endpoints as configured.
    - `pattern`: host names of Aurora instances with `?` for an instance's name, None not to look for instances.
    - `resolver`; `interval`, seconds between two looks at a target; `timeout`, seconds that one may take.
    """

    def __init__(
        self, seeds: Sequence[Endpoint], *, pattern: str | None, resolver: Resolver, interval: float, timeout: float
    ) -> None:
        self.databases: set[str] = set()
        self._seeds = list(seeds)
        self._pattern = pattern
        self._resolver = resolver
        self._interval = interval
        self._timeout = timeout
        self._targets: dict[Endpoint, Target] = {}
        self._instances: list[Endpoint] = []
        self._writer: Endpoint | None = None
        self._latest_writer: Endpoint | None = None
        # There is another writer, as it seems, but not everybody has been asked yet.
        self._undecided = False
        self._candidate: planner.Candidate | None = None
        self._views: list[View] = []
        self._connectors: list[Connector] = []
        self._change = asyncio.Event()
        self._searching_since = 0.0
        self._stopping: set[asyncio.Task[None]] = set()

    # Pools

    def join(self, access: Access, connector: Connector, changed: Callable[[], None]) -> View:
        """A pool's own view; `leave` it when the pool is gone."""
        view = View(self, access, connector, changed)
        self._views.append(view)
        self.watch(connector)
        return view

    def watch(self, connector: Connector) -> None:
        """Begin to watch, if nobody has, and log in this way too."""
        self._connectors.append(connector)
        for target in self._targets.values():
            if target.state is TargetState.UNAVAILABLE:
                # This one may be let in where all others were refused.
                target.doubt()
        if not self._targets:
            self._searching_since = asyncio.get_running_loop().time()
            self._have(self._seeds)

    def left(self, view: View) -> None:
        """See View.leave."""
        if view in self._views:
            self._views.remove(view)
        # Its user may be gone for good; but somebody's is needed to go on watching.
        if len(self._connectors) > 1 and view.connector in self._connectors:
            self._connectors.remove(view.connector)

    def candidates(self, access: Access) -> list[Target]:
        """See planner.candidates."""
        targets = [*self._targets.values()]
        chosen = planner.candidates(targets, self._targets.get(self._writer) if self._writer else None, access)
        return [self._targets[target.endpoint] for target in chosen]

    def least_loaded(self, targets: Sequence[Target], load: dict[Endpoint, int]) -> Place:
        """See planner.least_loaded."""
        return self._targets[planner.least_loaded(targets, load).endpoint].place

    @property
    def undecided(self) -> bool:
        """Whether there is a target that has to be looked at before anything can be said."""
        return self._undecided or any(target.state is TargetState.REGISTERING for target in self._targets.values())

    async def next_change(self) -> None:
        """Wait until something is known that was not."""
        await self._change.wait()

    def why_unavailable(self, access: Access) -> TargetUnavailableError:
        """What to tell who can't be given a place."""
        errors = [target.error for target in self._targets.values() if target.error is not None]
        read_only = [str(target.endpoint) for target in self._targets.values() if target.role is TargetRole.READ_ONLY]
        if access.role == "writer" and read_only:
            return TargetUnavailableError(
                f"there is no writer: {', '.join(read_only)} takes no writes",
                detail=str(errors[0]) if errors else None,
                hint='A failover may be under way. For a server that is meant to be read only, set "role" to "reader".',
            )
        if errors:
            return TargetUnavailableError(errors[0].message, detail=errors[0].detail, hint=errors[0].hint)
        return TargetUnavailableError("there is no healthy reader")

    def doubt(self, endpoint: Endpoint) -> None:
        """See View.doubt."""
        target = self._targets.get(endpoint)
        if target is not None:
            target.doubt()

    def succeeded(self, place: Place) -> bool:
        """See View.succeeded."""
        target = self._targets.get(place.endpoint)
        if target is None or self._writer is None:
            return False
        unreachable = target.reason is TargetReason.UNREACHABLE and self._writer != place.endpoint
        return unreachable or target.was_lost(place)

    def replaced(self, place: Place) -> bool:
        """See View.replaced."""
        target = self._targets.get(place.endpoint)
        if target is None:
            return False
        if not target.is_at(place):
            return target.was_left(place)
        return self._writer not in (None, place.endpoint) and target.role is not TargetRole.READ_ONLY

    def looked_since(self, endpoint: Endpoint, moment: float) -> bool:
        """See View.looked_since."""
        target = self._targets.get(endpoint)
        return target is not None and target.looked_at > moment

    def learn(self, endpoint: Endpoint, facts: Facts) -> None:
        """What a connection of a pool's has found out about a target that its control connection can't log in to."""
        target = self._targets.get(endpoint)
        if target is not None and facts.timeline:
            latest = max(each.timeline for each in self._targets.values())
            target.timeline = facts.timeline
            if facts.timeline > latest:
                # Connections to others may be to a primary that was lost.
                self._settle()

    # Targets

    @property
    def connectors(self) -> Sequence[Connector]:
        """See Watching."""
        return [*self._connectors]

    def worked(self, connector: Connector) -> None:
        """See Watching."""
        if connector in self._connectors and self._connectors[0] is not connector:
            self._connectors.remove(connector)
            self._connectors.insert(0, connector)

    @property
    def asks_topology(self) -> bool:
        """See Watching."""
        return self._pattern is not None

    @property
    def searching(self) -> bool:
        """See Watching."""
        return self._writer is None and any(view.access.role == "writer" for view in self._views)

    @property
    def wants_writer(self) -> bool:
        """See Watching. Nobody may be there yet; who comes wants the writer as a rule."""
        return not self._views or any(view.access.role == "writer" for view in self._views)

    def until_next_look(self, target: Target) -> float:
        """See Watching."""
        soon = asyncio.get_running_loop().time() - self._searching_since < _SEARCH_FOR
        return min(self._interval, planner.SEARCH_INTERVAL) if self.searching and soon else self._interval

    def instances_found(self, names: tuple[str, ...]) -> None:
        """See Watching."""
        if self._pattern is None:
            return
        instances = instance_endpoints(names, self._pattern, self._seeds[0].port)
        if instances and instances != self._instances:
            logger.info("the cluster of %s has the instances %s", self._seeds[0], ", ".join(map(str, instances)))
            self._instances = instances
            self._settle()

    def target_changed(self, target: Target) -> None:
        """See Watching."""
        self._settle()

    def looked(self) -> None:
        """See Watching."""
        if self._undecided:
            self._settle()

    def _settle(self) -> None:
        """Something is not as it was: decide anew, and tell everybody."""
        if self._instances:
            # The cluster's endpoints lead to servers that are among its instances, and follow a failover later: they
            # are needed only to find the instances, or to find them again.
            states = {self._targets[endpoint].state for endpoint in self._instances if endpoint in self._targets}
            found = TargetState.AVAILABLE in states and TargetState.REGISTERING not in states
            self._have(self._instances if found else [*dict.fromkeys(self._instances + self._seeds)])
        targets = [*self._targets.values()]
        writer = planner.writer_among(targets, self._writer)
        self._undecided = False
        if writer is None or writer.endpoint == self._writer:
            self._candidate = None
        else:
            self._candidate = planner.candidate_for(writer, self._candidate)
            for target in planner.to_ask_first(targets, self._candidate):
                self._undecided = True
                self.doubt(target.endpoint)
        if not self._undecided:
            self._decide(writer.endpoint if writer is not None else None)
        elif self._writer is not None and self.role_of(self._writer) is not TargetRole.READ_WRITE:
            self._decide(None)
        change, self._change = self._change, asyncio.Event()
        change.set()
        for view in [*self._views]:
            view.changed()

    def role_of(self, endpoint: Endpoint) -> TargetRole:
        """Its role, as far as it is known."""
        target = self._targets.get(endpoint)
        return target.role if target is not None else TargetRole.UNKNOWN

    def _decide(self, writer: Endpoint | None) -> None:
        if writer == self._writer:
            return
        now = asyncio.get_running_loop().time()
        if writer is None:
            lost = events.of_target("writer_lost", self._writer, databases=sorted(self.databases))
            logger.warning("%s was the writer; looking for the new one", self._writer, extra=lost)
            self._searching_since = now
            for target in self._targets.values():
                target.doubt()
        else:
            before, self._latest_writer = self._latest_writer, writer
            if before in (None, writer):
                fields = events.of_target("writer_found", writer, databases=sorted(self.databases))
            else:
                # Where it was not lost first, there was never a time without a writer.
                seconds = 0.0 if self._writer is not None else now - self._searching_since
                fields = events.of_target(
                    "failover",
                    writer,
                    databases=sorted(self.databases),
                    before=str(before),
                    seconds=round(seconds, 3),
                )
            logger.info("the writer is %s", writer, extra=fields)
        self._writer = writer

    def _have(self, endpoints: Iterable[Endpoint]) -> None:
        wanted = set(endpoints)
        for endpoint in [*self._targets]:
            if endpoint not in wanted:
                task = asyncio.get_running_loop().create_task(self._targets.pop(endpoint).stop())
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)
        for endpoint in endpoints:
            if endpoint not in self._targets:
                self._targets[endpoint] = Target(endpoint, self, self._resolver, self._timeout)

    def health(self) -> list[TargetHealth]:
        """How its targets are."""
        databases = sorted(self.databases)
        return [target.health(databases) for target in self._targets.values()]

    async def close(self) -> None:
        """Watch no longer."""
        self._views.clear()
        await asyncio.gather(*(target.stop() for target in self._targets.values()), *self._stopping)
        self._targets.clear()
