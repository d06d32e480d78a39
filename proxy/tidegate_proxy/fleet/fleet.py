"""The fleets that this process is a member of: one on each PostgreSQL server."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tidegate_proxy.fleet import cancel, name
from tidegate_proxy.fleet.cancel import CancelPort
from tidegate_proxy.fleet.membership import ControlPool, Membership
from tidegate_proxy.metrics.counts import PoolCounts
from tidegate_proxy.pool.sharing import Sharing, TargetLimit
from tidegate_proxy.settings import ConfigurationError, DatabaseSettings
from tidegate_proxy.settings.effective import pool_limits

if TYPE_CHECKING:
    from tidegate_proxy.net.connector import Connector
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)

ANY_HOST = "0.0.0.0"  # noqa: S104

_LOOKED_FOR = 10.0
"""Seconds for which a client's member is looked for at most."""

_FALLBACK_DATABASE = "postgres"
"""Every server has it unless somebody has dropped it; `initdb` makes it for such purposes."""


class Fleet:
    """Parameters: `proxy`, whose connections are to be shared with the rest of its fleet."""

    def __init__(self, proxy: Proxy) -> None:
        self.id = name.new_id()
        self._proxy = proxy
        self.address = ""
        self._memberships: dict[Hashable, Membership] = {}
        self._cancels = CancelPort(proxy.cancel_own)
        self._passing_on = 0

    @property
    def enabled(self) -> bool:
        """Whether there is a fleet at all."""
        return self._proxy.settings.in_fleet

    @property
    def memberships(self) -> Iterator[Membership]:
        """One for each server."""
        return iter(self._memberships.values())

    async def start(self) -> None:
        """Join before the first client comes. Raises: ConfigurationError."""
        if self.enabled:
            self.address = await self._listen()
            for database in self._proxy.settings.databases.values():
                self.limit(self._proxy.target_of(database))

    async def _listen(self) -> str:
        settings = self._proxy.settings
        host = settings.advertise_address or await self._own_address()
        if host is None:
            return ""
        try:
            # Behind an address translation, ours is not an address of this machine.
            port = await self._cancels.listen(host if _is_local(host) else ANY_HOST, settings.fleet_port)
        except OSError as error:
            raise ConfigurationError(
                f"fleet_port: cannot listen on {host} port {settings.fleet_port}: {error.strerror}: choose another "
                "one, or 0 for any"
            ) from None
        return name.pack_address(host, port)

    async def _own_address(self) -> str | None:
        """`listen_host` if it is one address, else that from which this machine reaches the first database."""
        settings = self._proxy.settings
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(settings.listen_host)
            if not address.is_unspecified:
                return str(address)
        database = next(iter(settings.databases.values()))
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(database.host, database.port, type=socket.SOCK_DGRAM)
            with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
                # Sends nothing.
                probe.connect(found[0][4])
                return str(probe.getsockname()[0])
        except OSError as error:
            logger.warning("no address for cancel requests from other members (%s): set advertise_address", error)
            return None

    async def pass_on_cancel(self, pid: int, key: bytes) -> None:
        """Send a CancelRequest to the member whose client it means, if there is one."""
        if not self.enabled or self._passing_on >= cancel.AT_ONCE:
            return
        self._passing_on += 1
        try:
            addresses = self._addresses_of(pid)
            if not addresses and name.tag_of_process(pid) != name.tag_of(self.id):
                await self._look_for(pid)
                addresses = self._addresses_of(pid)
            await cancel.pass_on(pid, key, addresses)
        finally:
            self._passing_on -= 1

    async def _look_for(self, pid: int) -> None:
        """Wait for a member that has joined a moment ago: looks that begin from now on show it."""
        # One without a control connection that will ever be looks no more.
        before = {each: each.looks for each in self._memberships.values() if not each.limit.alone}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOKED_FOR):
                # The first may have begun before now.
                for more in (1, 2):
                    await asyncio.gather(*(each.looked(looks + more) for each, looks in before.items()))
                    if self._addresses_of(pid):
                        return

    def _addresses_of(self, pid: int) -> set[tuple[str, int]]:
        tag = name.tag_of_process(pid)
        members = [
            member
            for membership in self._memberships.values()
            if membership.view is not None
            for member in membership.view.members
            if member.id != self.id and name.tag_of(member.id) == tag
        ]
        return {address for member in members if (address := name.unpack_address(member.address)) is not None}

    def limit(self, target: Hashable) -> TargetLimit:
        """The limit for the connections to this server; `target`, as `Proxy.target_of` names it."""
        if not self.enabled:
            return TargetLimit()
        membership = self._memberships.get(target)
        if membership is None:
            seat = _Seat(self._proxy, self, target)
            if seat.role != "writer":
                # Readers are several servers, which do not know of each other's connections.
                return TargetLimit()
            membership = self._memberships[target] = Membership(seat.target, seat)
        return membership.limit

    async def renew(self) -> None:
        """Log in anew, as the settings are now."""
        await asyncio.gather(*(membership.renew() for membership in self._memberships.values()))

    async def close(self) -> None:
        """Leave; the pools are closed."""
        self._cancels.close()
        await asyncio.gather(*(membership.close() for membership in self._memberships.values()))
        self._memberships.clear()


class _Seat:
    """What a membership needs: see `membership.Place`."""

    def __init__(self, proxy: Proxy, fleet: Fleet, target: Hashable) -> None:
        self.id = fleet.id
        self.address = fleet.address
        self.sharing = proxy.sharing
        self._proxy = proxy
        self._key = target
        _, database = self._database()
        self.target = f"{database.host}:{database.port}"
        self.role = database.role

    @property
    def percent(self) -> int:
        """The setting `max_connections_percent`."""
        return self._proxy.settings.max_connections_percent

    @property
    def users(self) -> Sequence[str]:
        """The users that members log in as, as far as the configuration tells."""
        settings = self._proxy.settings
        names: set[str | None] = set()
        for database in self._databases().values():
            names |= {database.user} if database.user or database.secret else set(settings.users)
            names.add(database.auth_user)
        return sorted(user for user in names if user)

    def control_pool(self) -> ControlPool:
        """A new pool for the control connection."""
        entry, database = self._database()
        user, connector = self._way_in(entry, database)
        limits = replace(
            pool_limits(self._proxy.settings, database, user),
            pool_size=1,
            min_pool_size=0,
            reserve_pool_size=0,
            server_lifetime=0,
            server_idle_timeout=0,
            init_query=None,
        )
        pool = self._proxy.new_pool(
            entry,
            f"{user} (fleet)",
            database,
            connector,
            limits,
            kind=ControlPool,
            # It is no part of what is shared out.
            sharing=Sharing(100, None),
            counts=PoolCounts(),
        )
        assert isinstance(pool, ControlPool)
        return pool

    def _databases(self) -> dict[str, DatabaseSettings]:
        proxy = self._proxy
        return {
            entry: database
            for entry, database in proxy.settings.databases.items()
            if proxy.target_of(database) == self._key
        }

    def _database(self) -> tuple[str, DatabaseSettings]:
        """Where the control connection leads: all members must choose the same, since locks are a database's own."""
        databases = self._databases() or dict(self._proxy.settings.databases)
        entry = next((entry for entry in databases if entry != "*"), "*")
        database = databases[entry]
        dbname = database.dbname or database.auth_dbname or _FALLBACK_DATABASE
        return entry, database.model_copy(update={"dbname": dbname})

    def _way_in(self, entry: str, database: DatabaseSettings) -> tuple[str, Connector]:
        proxy = self._proxy
        if database.user is None and database.secret is None:
            for user, own in proxy.settings.users.items():
                if own.password is not None or own.secret is not None or database.server_auth == "iam":
                    return user, proxy.connector(entry, database, user)
            if database.auth_user is not None:
                credentials = proxy.credentials.of_auth_user(entry, database)
                return database.auth_user, proxy.connector(entry, database, database.auth_user, credentials)
        # With nothing to log in with, the server says what it thinks of that.
        user = database.user or next(iter(proxy.settings.users), "") or ""
        return user, proxy.connector(entry, database, user)


def _is_local(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
