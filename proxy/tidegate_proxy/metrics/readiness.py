"""Whether clients may be sent to the proxy: what /readyz says.

It is about this process and not about the database. Once a login has worked, configuration, network and credentials are
right, and a database that goes away later is away for all processes: to say so would make a load balancer drop each of
them and ECS replace each of them, and with them all clients that wait for the database to come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.metrics.target_health import target_health
from tidegate_proxy.net.connector import check_reachable
from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.targets.control import ControlConnection
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.targets.health import TargetState
from tidegate_proxy.targets.registry import endpoints

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that a login is waited for: load balancers wait for five."""

ANY_DATABASE = "postgres"
"""Where to log in while nobody has named a database: `initdb` makes it for such purposes."""

_LET_IN = frozenset({"3D000", "42501"})
"""The user is let in, but there is no such database, or not for this user: said only after authentication
(InitPostgres in PostgreSQL's postinit.c)."""


@dataclass(frozen=True)
class Answer:
    """`ready`, and in `text` why not, or what is worth knowing though it is."""

    ready: bool
    text: str


class Readiness:
    """Parameters: the `proxy`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._reached = False
        self._attempt: asyncio.Task[str | None] | None = None

    def look(self) -> None:
        """See whether a target has been reached; called every second."""
        self._reached = self._reached or self._available

    async def answer(self) -> Answer:
        """What to say now, within `PATIENCE`."""
        if self._proxy.draining:
            return Answer(False, "draining")
        self.look()
        if not self._reached:
            why_not = await self._try()
            if why_not is not None:
                return Answer(False, why_not)
        if target_health(self._proxy) and not self._available:
            return Answer(True, "ok, but no target is available at present: clients wait")
        return Answer(True, "ok")

    async def stop(self) -> None:
        """Try no longer."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])

    @property
    def _available(self) -> bool:
        return any(target.state is TargetState.AVAILABLE for target in target_health(self._proxy))

    async def _try(self) -> str | None:
        if self._attempt is None or self._attempt.done():
            # One at a time, however many ask; it goes on when they give up.
            self._attempt = asyncio.get_running_loop().create_task(self._reach_a_target())
        try:
            return await asyncio.wait_for(asyncio.shield(self._attempt), PATIENCE)
        except TimeoutError:
            return "no target answers"

    async def _reach_a_target(self) -> str | None:
        """Log in to any database; where no login is known, see that a server is there. Returns: why that failed."""
        settings = self._proxy.settings
        known = {name: users for name, each in settings.databases.items() if (users := [*known_users(settings, each)])}
        attempts: list[Coroutine[Any, Any, None]] = [self._log_in(name, users) for name, users in known.items()]
        why_not = "no login to a target is possible"
        if not attempts:
            # Users, and what they log in with, come with the clients.
            attempts = [self._connect(endpoint) for each in settings.databases.values() for endpoint in endpoints(each)]
            why_not = "no target can be reached"
        problem = await _first_success(attempts)
        if problem is not None:
            logger.info("not ready: %s: %s", why_not, problem)
            return why_not
        self._reached = True
        return None

    async def _log_in(self, name: str, users: list[str | None]) -> None:
        """Log in as any of these users, None for the one that looks up others. Raises: ProxyError."""
        problem: ProxyError | None = None
        for user in users:
            try:
                await self._log_in_as(name, user)
            except ProxyError as error:
                problem = problem or error
            else:
                return
        if problem is not None:
            raise problem

    async def _log_in_as(self, name: str, user: str | None) -> None:
        proxy = self._proxy
        database = proxy.settings.databases[name]
        if user is not None and database.dbname is not None and user in proxy.settings.users:
            # As a client's connection would be, so that the first client finds it.
            await proxy.pool(name, user).begin_session({})
            return
        credentials = proxy.credentials.of_auth_user(name, database) if user is None else None
        preferred = database.auth_dbname if user is None else None
        there = database.model_copy(update={"dbname": preferred or database.dbname or ANY_DATABASE})
        connector = proxy.connector(name, there, user or "", credentials)
        problem: ProxyError | None = None
        for endpoint in endpoints(database):
            try:
                control = await ControlConnection.open(
                    connector, Place(endpoint), proxy.settings.server_connect_timeout
                )
            except ProxyError as error:
                if database.dbname is None and error.sqlstate in _LET_IN:
                    return
                problem = problem or error
            else:
                control.close()
                return
        if problem is not None:
            raise problem

    async def _connect(self, endpoint: Endpoint) -> None:
        await check_reachable(endpoint, self._proxy.targets.resolver, self._proxy.settings.server_connect_timeout)


def known_users(settings: Settings, database: DatabaseSettings) -> Iterator[str | None]:
    """Users as whom the proxy can log in to this database by itself; None for `auth_user`, with what it has of its own,
    and an empty name for the one that a secret names."""
    if database.secret is not None or database.user is not None:
        yield database.user or ""
        return
    by_iam = database.server_auth == "iam"
    for user, own in settings.users.items():
        # Of a verifier, the key for the server is known only when a client has shown it.
        if by_iam or own.password is not None or own.secret is not None:
            yield user
    if by_iam and settings.iam is not None:
        yield from sorted(settings.iam.users - settings.users.keys())
    if database.auth_user is not None:
        yield None


async def _first_success(attempts: list[Coroutine[Any, Any, None]]) -> ProxyError | None:
    """Make all attempts at once, until one has succeeded. Returns: the problem of one of them, if none has."""
    tasks = {asyncio.ensure_future(attempt) for attempt in attempts}
    problem: ProxyError | None = None
    try:
        for done in asyncio.as_completed(tasks):
            try:
                await done
            except ProxyError as error:
                problem = problem or error
            else:
                return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return problem
