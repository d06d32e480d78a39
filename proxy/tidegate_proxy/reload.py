"""A new configuration for a running proxy: all of it or nothing, and clients stay."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.settings.effective import pool_limits
from tidegate_proxy.settings.sizes import DatabaseSizes
from tidegate_proxy.targets.registry import access

if TYPE_CHECKING:
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)


def apply_settings(proxy: Proxy, old: Settings, new: Settings) -> None:
    """Make pools and clients follow `new`, which is the proxy's settings already.

    - Sizes and times hold from now on. Server connections to what is configured otherwise now are closed when they are
      next free, and new ones opened.
    - Clients of a database or a user that is no more are disconnected after their transaction. Those who logged in by
      a token stay while anybody may still log in as their user.
    """
    logging.getLogger().setLevel(new.log_level.upper())
    proxy.follow_iam(new)
    proxy.counts.call_slow(new.log_slow_queries)
    proxy.sharing.set_percent(new.max_connections_percent, new.max_idle_connections_percent)
    if old.databases != new.databases:
        proxy.forget_auth_users()
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
    pool.max_prepared = pool.limits.max_prepared_statements
    proxy.share(pool)
    moved = before is None or _place(before) != _place(after) or pool.limits.init_query != init_query
    if moved or _own_login(old, pool.user) != _own_login(new, pool.user):
        proxy.credentials.forget(pool.database, pool.user)
        pool.follow(
            proxy.connector(pool.database, after, pool.user), proxy.cluster(pool.database, after), access(after)
        )
    if moved:
        pool.renew()


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
