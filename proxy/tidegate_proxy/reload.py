"""A new configuration for a running proxy: all of it or nothing, and clients stay."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from tidegate_proxy.credentials.secret import Secret
from tidegate_proxy.identity.verifiers import ClientVerifiers
from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.settings.effective import pool_limits
from tidegate_proxy.settings.live import check_live
from tidegate_proxy.settings.sizes import DatabaseSizes
from tidegate_proxy.targets.registry import access

if TYPE_CHECKING:
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)


class Change:
    """Other settings, of which nothing holds before they are applied.

    Parameters: the `proxy`; `new`, the settings; `changed`, the names of what is new in them; `secrets` and
    `verifiers`, what is made of them. Use `prepare`.
    """

    def __init__(
        self, proxy: Proxy, new: Settings, changed: list[str], secrets: dict[str, Secret], verifiers: ClientVerifiers
    ) -> None:
        self.changed = changed
        self._proxy = proxy
        self._new = new
        self._secrets = secrets
        self._verifiers = verifiers

    @classmethod
    async def prepare(cls, proxy: Proxy, new: Settings) -> Change:
        """Do all of it that may fail. Raises: ConfigurationError, when the proxy can't have these settings."""
        changed = check_live(proxy.settings, new)
        secrets = proxy.credentials.secrets_of(new)
        # A thousand passwords take seconds to be hashed.
        verifiers = await asyncio.to_thread(ClientVerifiers, new, secrets, proxy.auth_query)
        for database in new.databases.values():
            # What it has read of their authorities it keeps.
            proxy.server_contexts.of(database)
        return cls(proxy, new, changed, secrets, verifiers)

    async def apply(self) -> None:
        """From now on they hold."""
        proxy, old = self._proxy, self._proxy.settings
        if not self.changed:
            return
        proxy.credentials.follow(self._new, self._secrets)
        proxy.settings = self._new
        proxy.logins.follow(self._new, self._verifiers)
        apply_settings(proxy, old, self._new)
        if old.databases != self._new.databases or old.users != self._new.users:
            await proxy.fleet.renew()


def apply_settings(proxy: Proxy, old: Settings, new: Settings) -> None:
    """Make pools and clients follow `new`, which is the proxy's settings already.

    - Sizes and times hold from now on. Server connections to what is configured otherwise now are closed when they are
      next free, and new ones opened.
    - Clients of a database or a user that is no more are disconnected after their transaction. Those who logged in by
      a token stay while anybody may still log in as their user.
    """
    logging.getLogger().setLevel(new.log_level.upper())
    proxy.follow_iam(new)
    proxy.hand_down_options()
    proxy.counts.call_slow(new.log_slow_queries)
    proxy.sharing.set_percent(new.max_connections_percent, new.max_idle_connections_percent)
    if old.databases != new.databases:
        proxy.forget_auth_users()
    # Not only those of pools that clients have: a member of the fleet logs in, too.
    proxy.credentials.forget(partial(_other_login, old, new))
    for pool in list(proxy.pools):
        _apply(proxy, pool, old, new)
    proxy.targets.keep_only(new.databases)
    gone = _names(old) - _names(new)
    for client in list(proxy.clients):
        pool = proxy.pool_of(client)
        if pool.user in gone or new.database(pool.database) is None:
            client.shut_down()
    for pool in list(proxy.pools):
        pool.open_more()
        proxy.sharing.freed(pool)


def _apply(proxy: Proxy, pool: Pool, old: Settings, new: Settings) -> None:
    before, after = old.database(pool.database), new.database(pool.database)
    if after is None:
        pool.renew()
        return
    init_query = pool.limits.init_query
    pool.limits = pool_limits(new, after, pool.user)
    proxy.share(pool)
    moved = before is None or _place(before) != _place(after) or pool.limits.init_query != init_query
    if moved or _other_login(old, new, pool.database, pool.user):
        pool.follow(
            proxy.connector(pool.database, after, pool.user), proxy.cluster(pool.database, after), access(after)
        )
    if moved:
        pool.renew()


def _other_login(old: Settings, new: Settings, database: str, user: str) -> bool:
    """Whether connections of this database and user lead elsewhere now, or are logged in otherwise."""
    before, after = old.database(database), new.database(database)
    if before is None or after is None:
        return True
    return _place(before) != _place(after) or _own_login(old, user) != _own_login(new, user)


def _place(database: DatabaseSettings) -> dict[str, object]:
    """What of a database decides where its connections lead, and as whom."""
    return {
        name: getattr(database, name)
        for name in DatabaseSettings.model_fields
        if name not in DatabaseSizes.model_fields and name != "pool_mode"
    }


def _names(settings: Settings) -> set[str]:
    """Users whom the configuration names."""
    return {*settings.users} | (settings.iam.users if settings.iam is not None else set())


def _own_login(settings: Settings, user: str) -> object:
    """What of a user decides how the proxy logs in to servers as that user."""
    own = settings.users.get(user)
    brings_tokens = settings.iam is not None and user in settings.iam.rds_users
    return own and (own.password, own.secret), brings_tokens
