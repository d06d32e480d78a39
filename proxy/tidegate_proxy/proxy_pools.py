"""The half of the proxy that makes pools: of which servers, with which credentials, within which limits."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tidegate_proxy.control import Control
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.credentials.provider import CredentialProvider
from tidegate_proxy.credentials.registry import ServerCredentials
from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.identity.auth_query import AuthQuery
from tidegate_proxy.metrics.counts import Counts, PoolCounts
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.pool.sharing import Sharing, TargetLimit
from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.settings.effective import PoolLimits, pool_limits, shared_limits
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.registry import Targets, access
from tidegate_proxy.tls import ServerContexts

if TYPE_CHECKING:
    from tidegate_proxy.identity.iam.authenticator import IamAuthenticator

AUTH_QUERY_CONNECTIONS = 2
"""Most server connections per database for `auth_query`: a slow answer must not hold up all others."""


class ProxyPools(abc.ABC):
    """All pools, one for each database and user that clients name.

    Parameters: `settings`; `target_limit`, which makes the limit of a server.
    """

    control: Control

    def __init__(self, settings: Settings, target_limit: Callable[[Hashable], TargetLimit]) -> None:
        self.settings = settings
        self.credentials = ServerCredentials(settings)
        self.auth_queries: dict[str, AuthQuery] = {}
        self.iam = _iam(settings)
        self.counts = Counts(lambda database: database in self.settings.databases)
        self.counts.call_slow(settings.log_slow_queries)
        self.targets = Targets(settings)
        self.sharing = Sharing(settings.max_connections_percent, settings.max_idle_connections_percent, target_limit)
        self.server_contexts = ServerContexts()
        self._pools: dict[tuple[str, str], Pool] = {}

    @abc.abstractmethod
    def _client_lost(self, client: ClientConnection) -> None:
        """A client's connection has ended."""

    @property
    def pools(self) -> Iterable[Pool]:
        """Every pool that there is at present."""
        return self._pools.values()

    def pool_of(self, client: ClientConnection) -> Pool:
        """The pool that the client belongs to."""
        assert isinstance(client.owner, Pool)
        return client.owner

    def pool(self, database: str, user: str) -> Pool:
        """The pool for what a client named. Raises: ClientProtocolError (3D000) for an unknown database."""
        target = self.settings.database(database)
        if target is None:
            raise ClientProtocolError(f'database "{database}" does not exist', sqlstate="3D000")
        pool = self._pools.get((database, user))
        if pool is None:
            pool = self.new_pool(
                database,
                user,
                target,
                self.connector(database, target, user),
                pool_limits(self.settings, target, user),
            )
            self._pools[database, user] = pool
            self.share(pool)
            self.control.pool_made(pool)
        return pool

    # What a pool is made of

    def new_pool(
        self,
        database: str,
        user: str,
        target: DatabaseSettings,
        connector: Connector,
        limits: PoolLimits,
        *,
        kind: type[Pool] = Pool,
        sharing: Sharing | None = None,
        counts: PoolCounts | None = None,
    ) -> Pool:
        """A pool, which has no part in shared limits yet.

        Parameters: `kind`, its class; `sharing` and `counts`, where they are not those of all pools.
        """
        return kind(
            database,
            user,
            limits=limits,
            sharing=sharing or self.sharing,
            asks_always=self.settings.session_check == "always",
            connector=connector,
            cluster=self.cluster(database, target),
            access=access(target),
            counts=counts or self.counts.of_pool(database, user, f"{target.host}:{target.port}"),
            client_lost=self._client_lost,
            defaults_changed=self._defaults_changed,
        )

    def connector(
        self, database: str, target: DatabaseSettings, user: str, credentials: CredentialProvider | None = None
    ) -> Connector:
        """What opens server connections of a pool. Parameters: `credentials`, where they are not the pool's own."""
        if credentials is None:
            # A client's own token, where there is nothing else.
            brought = self.iam.credentials(database, user) if self.iam is not None else None
            credentials = self.credentials.of_pool(database, target, user, brought)
        return Connector(
            target,
            tls=partial(self.server_contexts.of, target),
            credentials=credentials,
            resolver=self.targets.resolver,
            timeout=self.settings.server_connect_timeout,
            user_timeout=self.settings.server_tcp_user_timeout,
        )

    def cluster(self, database: str, target: DatabaseSettings) -> Cluster:
        """The servers of what a client named."""
        return self.targets.cluster(database if database in self.settings.databases else "*", target)

    def share(self, pool: Pool) -> None:
        """Let a pool take part in the limits that it shares, as the settings are now."""
        target = self.settings.database(pool.database)
        assert target is not None
        pool.shared_limits = shared = shared_limits(self.settings, pool.database, pool.user)
        self.sharing.join(
            pool,
            [
                (("database", pool.database), shared.max_db_connections),
                (("user", pool.user), shared.max_user_connections),
            ],
            target=self.target_of(target),
        )

    @staticmethod
    def target_of(database: DatabaseSettings) -> Hashable:
        """What tells the PostgreSQL server of a database from others, for limits."""
        return ("target", database.host, database.port, database.role)

    def _watch_targets(self) -> None:
        """Of databases whose user is not a client's own, all is known that a control connection needs."""
        for name, database in self.settings.databases.items():
            # A secret names its user itself.
            user = "" if database.secret is not None else database.user
            if user is not None and database.dbname is not None:
                self.cluster(name, database).watch(self.connector(name, database, user))

    def follow_iam(self, settings: Settings) -> None:
        """Clients log in by tokens as these settings say from now on."""
        if self.iam is not None:
            self.iam.follow(settings.iam, alone=settings.tokens_only)
        else:
            self.iam = _iam(settings)

    def _defaults_changed(self) -> None:
        # Which sessions a default concerns, only the server knows.
        for pool in self._pools.values():
            pool.renew()

    # Users that are looked up

    def auth_query(self, database: str) -> AuthQuery | None:
        """How to look up users of a database that a client named; None where it has no `auth_user`."""
        name = database if database in self.settings.databases else "*"
        target = self.settings.databases.get(name)
        if target is None or target.auth_user is None:
            return None
        query = self.auth_queries.get(name)
        if query is None:
            query = AuthQuery(
                name,
                self.settings.auth_query,
                self.settings.auth_query_cache,
                partial(self._ask_as_auth_user, name, target),
            )
            self.auth_queries[name] = query
        return query

    async def _ask_as_auth_user(self, name: str, target: DatabaseSettings, sql: str) -> InternalQuery:
        user = target.auth_user or ""
        # No client's user name has a zero byte: its pool is never this one.
        key = (name, f"\0{user}")
        pool = self._pools.get(key)
        if pool is None:
            target = target.model_copy(update={"dbname": target.auth_dbname or target.dbname})
            connector = self.connector(name, target, user, self.credentials.of_auth_user(name, target))
            limits = replace(
                pool_limits(self.settings, target, user),
                pool_size=AUTH_QUERY_CONNECTIONS,
                min_pool_size=0,
                reserve_pool_size=0,
            )
            counts = self.counts.of_pool(*key, f"{target.host}:{target.port}")
            pool = self._pools[key] = self.new_pool(name, user, target, connector, limits, counts=counts)
            self.sharing.join(pool, [], target=self.target_of(target))
        return await pool.ask(sql)

    def forget_auth_users(self) -> None:
        """Look up users as the settings are now."""
        self.auth_queries.clear()
        for key in [key for key in self._pools if key[1].startswith("\0")]:
            pool = self._pools.pop(key)
            self.sharing.leave(pool)
            pool.leave_targets()
            pool.renew()


def _iam(settings: Settings) -> IamAuthenticator | None:
    if settings.iam is None:
        return None
    # Here and not above: who does without it shall not wait for an HTTP client to be loaded.
    from tidegate_proxy.identity.iam.authenticator import IamAuthenticator

    return IamAuthenticator(settings.iam, alone=settings.tokens_only)
