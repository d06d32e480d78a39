"""One target, watched on a control connection of its own for as long as it belongs to a cluster."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from tidegate_proxy import events
from tidegate_proxy.errors import ProxyError, TargetUnavailableError
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.pool.planner import is_final
from tidegate_proxy.targets import planner
from tidegate_proxy.targets.control import ControlConnection, Facts
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.targets.health import TargetHealth, TargetReason, TargetRole, TargetState

logger = logging.getLogger(__name__)

_LEAST_PAUSE = 0.02
"""Seconds between two looks at a target, however often it is doubted."""


class Watching(Protocol):
    """What a target needs of its cluster."""

    @property
    def connectors(self) -> Sequence[Connector]:
        """Ways to log in, best first."""

    def worked(self, connector: Connector) -> None:
        """This one has just led to a session."""

    @property
    def asks_topology(self) -> bool:
        """Whether the instances of an Aurora cluster are wanted."""

    def instances_found(self, names: tuple[str, ...]) -> None:
        """Here they are."""

    def until_next_look(self, target: Target) -> float:
        """Seconds until the target, which has just answered, is asked again."""

    @property
    def searching(self) -> bool:
        """Whether a writer is wanted, and there is none."""

    @property
    def wants_writer(self) -> bool:
        """Whether a writer is wanted."""

    def looked(self) -> None:
        """A target has answered, whether or not anything is new."""

    def target_changed(self, target: Target) -> None:
        """Its role, state or life is not what it was."""


class Target:
    """Parameters: `endpoint`; `cluster`; `resolver`; `timeout`, seconds for a control connection and for its
    answers."""

    def __init__(self, endpoint: Endpoint, cluster: Watching, resolver: Resolver, timeout: float) -> None:
        self.endpoint = endpoint
        self.role = TargetRole.UNKNOWN
        self.state = TargetState.REGISTERING
        self.reason: TargetReason | None = None
        self.error: ProxyError | None = None
        self.timeline = ""
        # Event-loop time at which the latest look began that brought an answer.
        self.looked_at = 0.0
        self._since = time.time()
        self._epoch = 0
        # The latest epoch in which nothing answered any more.
        self._silent_epoch = -1
        self._life = b""
        self._address: str | None = None
        # Event-loop time at which its name was seen to lead away from an address.
        self._left: dict[str, float] = {}
        self._cluster = cluster
        self._resolver = resolver
        self._timeout = timeout
        self._doubted = asyncio.Event()
        # Attempts in a row that were in vain, and control connections that broke before they told anything.
        self._failures = self._broken = 0
        self._task = asyncio.get_running_loop().create_task(self._watch())

    @property
    def place(self) -> Place:
        """Where to connect to now. A writer's connections all go where its control connection is: another look-up of
        its name might still lead to the server that it has left."""
        direct = self._address if self.role is TargetRole.READ_WRITE else None
        return Place(self.endpoint, self._epoch, direct)

    def is_at(self, place: Place) -> bool:
        """Whether what was opened to `place` is still a connection to this target."""
        return place.endpoint == self.endpoint and place.epoch == self._epoch

    def was_left(self, place: Place) -> bool:
        """Whether what was opened to `place` leads to another server, or another life of it, than is behind the name
        now. Nobody knows that of what was opened without a control connection, and so without an address."""
        return place.address is not None and not self.is_at(place)

    def was_lost(self, place: Place) -> bool:
        """Whether that is so, and nothing had answered there any more."""
        return self.was_left(place) and place.epoch <= self._silent_epoch

    def health(self, databases: Iterable[str]) -> TargetHealth:
        """How it is, for those who watch the proxy."""
        # One login that works is enough to be available, and there may be others that do not.
        problems = dict.fromkeys(connector.credentials.problem for connector in self._cluster.connectors)
        return TargetHealth(
            self.endpoint.host,
            self.endpoint.port,
            tuple(databases),
            self.role,
            self.state,
            self.reason,
            self.error.for_operators if self.error is not None else "; ".join(filter(None, problems)) or None,
            self._since,
        )

    def doubt(self) -> None:
        """Look at it now."""
        self._doubted.set()

    async def stop(self) -> None:
        """Watch it no longer."""
        self._task.cancel()
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    async def _watch(self) -> None:
        while True:
            try:
                await self._watch_once()
            except ProxyError as error:
                await self._failed(error)
            except Exception as error:
                # Whatever it is, a target that nobody watches any more would be worse.
                logger.exception("target %s: a fault of the proxy", self.endpoint)
                await self._failed(ProxyError(detail=str(error)))

    async def _watch_once(self) -> None:
        """Watch on one control connection. Raises: ProxyError when there is none, or not twice in a row."""
        control = await self._log_in()
        try:
            await self._ask_until_moved(control)
        except ProxyError as error:
            self._broken += 1
            logger.debug("target %s: %s", self.endpoint, error)
            # One that breaks is opened anew at once: it may have been the connection alone.
            if self._broken > 1:
                raise
        finally:
            control.close()

    async def _log_in(self) -> ControlConnection:
        first: ProxyError | None = None
        for connector in self._cluster.connectors:
            try:
                control = await ControlConnection.open(connector, Place(self.endpoint), self._timeout)
            except ProxyError as error:
                first = first or error
                # Another user, or another database, may have what this one lacks.
                if not is_final(error.sqlstate):
                    break
            else:
                self._cluster.worked(connector)
                return control
        raise first or TargetUnavailableError()

    async def _ask_until_moved(self, control: ControlConnection) -> None:
        """Returns when the name leads to another server. Raises: ProxyError when this one does not answer."""
        # DNS may take longer than a server that has become another must be noticed in, and the other way round.
        looks = asyncio.Event()
        asking = asyncio.ensure_future(self._ask(control, looks))
        moved = asyncio.ensure_future(self._until_moved(control.address, looks))
        try:
            await asyncio.wait([asking, moved], return_when=asyncio.FIRST_COMPLETED)
            await (asking if asking.done() else moved)
        finally:
            for task in (asking, moved):
                task.cancel()
            await asyncio.gather(asking, moved, return_exceptions=True)

    async def _ask(self, control: ControlConnection, looks: asyncio.Event) -> None:
        while True:
            looks.set()
            began = asyncio.get_running_loop().time()
            facts = await control.check(topology=self._cluster.asks_topology)
            self._failures = self._broken = 0
            self.looked_at = began
            self._learned(facts, control.address)
            self._cluster.looked()
            if facts.instances is not None:
                self._cluster.instances_found(facts.instances)
            await self._pause(self._cluster.until_next_look(self), control)

    async def _until_moved(self, address: str | None, looks: asyncio.Event) -> None:
        """Wait until the name leads elsewhere than to `address`; with each look it is resolved anew."""
        while True:
            await looks.wait()
            looks.clear()
            # While there is no writer, whatever the name leads to is as good. A server that is read only takes no
            # writes that would be lost.
            if self._cluster.searching:
                left = {}
            elif self._cluster.wants_writer and self.role is TargetRole.READ_WRITE:
                left = self._left
            else:
                continue
            if await self._has_moved(address, left):
                logger.info("target %s: the name leads elsewhere than to %s now", self.endpoint, address)
                return

    async def _has_moved(self, address: str | None, left: dict[str, float]) -> bool:
        if address is None:
            return False
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._resolver.addresses(self.endpoint.host)
        except OSError:
            # Who does not know where it leads, knows nothing better than where it led.
            return False
        address, now = _plain(address), asyncio.get_running_loop().time()
        if not planner.has_moved(address, [_plain(other) for other in found], left, now):
            return False
        self._left = {other: at for other, at in self._left.items() if now - at < planner.RETURN_AFTER} | {address: now}
        return True

    async def _pause(self, seconds: float, control: ControlConnection | None = None) -> None:
        """Wait until the next look: for so long, until somebody doubts, or until the control connection is gone."""
        await asyncio.sleep(min(_LEAST_PAUSE, seconds))
        events: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._doubted.wait())]
        if control is not None:
            events.append(asyncio.ensure_future(control.ended()))
        try:
            await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()
        self._doubted.clear()

    def _learned(self, facts: Facts, address: str | None) -> None:
        self._address = address
        self.timeline = facts.timeline
        another = facts.life != self._life
        if another and self._life:
            self._epoch += 1
        self._life = facts.life
        role = TargetRole.READ_ONLY if facts.read_only else TargetRole.READ_WRITE
        self._become(role, TargetState.AVAILABLE, None, None, another=another)

    async def _failed(self, error: ProxyError) -> None:
        self._failures += 1
        reason = planner.reason_for(error)
        # Something answers, and pools may try it with users of their own; what they have may be connections to the
        # server that the name has left.
        if reason is not TargetReason.UNREACHABLE and await self._has_moved(self._address, {}):
            self._epoch += 1
        self._address = None
        if reason is TargetReason.UNREACHABLE:
            self._silent_epoch = self._epoch
        self._become(TargetRole.UNKNOWN, TargetState.UNAVAILABLE, reason, error)
        final = reason is TargetReason.AUTH_FAILURE or is_final(error.sqlstate)
        await self._pause(planner.next_look(self._failures, final=final))

    def _become(
        self,
        role: TargetRole,
        state: TargetState,
        reason: TargetReason | None,
        error: ProxyError | None,
        *,
        another: bool = False,
    ) -> None:
        same = (role, state, reason) == (self.role, self.state, self.reason)
        if (role, state) != (self.role, self.state):
            self._since = time.time()
        self.role, self.state, self.reason, self.error = role, state, reason, error
        if same and not another:
            return
        if error is not None:
            fields = events.of_target("target_unavailable", self.endpoint, reason=reason, sqlstate=error.sqlstate)
            logger.warning("target %s: %s, %s: %s", self.endpoint, state, reason, error.for_operators, extra=fields)
        else:
            fields = events.of_target("target_available", self.endpoint, role=role)
            logger.info("target %s: %s, %s", self.endpoint, state, role, extra=fields)
        self._cluster.target_changed(self)


def _plain(address: str) -> str:
    """An IP address in the one way of writing it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
