"""What holds for one pool: the user's own setting, else the database's, else the general one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from tidegate_proxy.settings.models import DatabaseSettings, Settings, UserSettings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Sizes and times of one pool; each as the setting of its name. Durations are seconds, 0 is for no limit."""

    pool_size: int
    min_pool_size: int
    reserve_pool_size: int
    reserve_pool_timeout: float
    max_waiting_clients: int
    connection_borrow_timeout: float
    query_timeout: float
    transaction_timeout: float
    idle_transaction_timeout: float
    idle_client_timeout: float
    server_lifetime: float
    server_idle_timeout: float
    server_connect_timeout: float
    server_login_retry: float
    server_reset_timeout: float
    left_writer_timeout: float
    max_prepared_statements: int
    reuse_unnamed_statements_after: int
    init_query: str | None


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """Limits that one pool shares with others, 0 for none: of its database and of its user, of clients and servers."""

    max_db_connections: int
    max_user_connections: int
    max_db_client_connections: int
    max_user_client_connections: int


def _first(*values: T | None, default: T) -> T:
    return next((value for value in values if value is not None), default)


def pool_limits(settings: Settings, database: DatabaseSettings, user: str) -> PoolLimits:
    """The limits of the pool of one database and user.

    Parameters: `database`, as `Settings.database` gives it; `user`, as the client names it.
    """
    own = settings.users.get(user) or _NOTHING
    size = _first(own.pool_size, database.pool_size, default=settings.default_pool_size)
    return PoolLimits(
        pool_size=size,
        min_pool_size=min(size, _first(database.min_pool_size, default=settings.min_pool_size)),
        reserve_pool_size=_first(own.reserve_pool_size, database.reserve_pool_size, default=settings.reserve_pool_size),
        reserve_pool_timeout=settings.reserve_pool_timeout,
        max_waiting_clients=settings.max_waiting_clients,
        connection_borrow_timeout=_first(
            own.connection_borrow_timeout,
            database.connection_borrow_timeout,
            default=settings.connection_borrow_timeout,
        ),
        query_timeout=_first(own.query_timeout, default=settings.query_timeout),
        transaction_timeout=_first(own.transaction_timeout, default=settings.transaction_timeout),
        idle_transaction_timeout=_first(own.idle_transaction_timeout, default=settings.idle_transaction_timeout),
        idle_client_timeout=_first(own.idle_client_timeout, default=settings.idle_client_timeout),
        server_lifetime=_first(database.server_lifetime, default=settings.server_lifetime),
        server_idle_timeout=settings.server_idle_timeout,
        server_connect_timeout=settings.server_connect_timeout,
        server_login_retry=settings.server_login_retry,
        server_reset_timeout=settings.server_reset_timeout,
        left_writer_timeout=settings.left_writer_timeout,
        max_prepared_statements=settings.max_prepared_statements,
        reuse_unnamed_statements_after=settings.reuse_unnamed_statements_after,
        init_query=database.init_query or settings.init_query,
    )


def shared_limits(settings: Settings, database: str, user: str) -> SharedLimits:
    """The limits that clients of one database and user share with others.

    Parameters: `database` and `user`, as the client names them.
    """
    own = settings.users.get(user) or _NOTHING
    target = settings.database(database)
    return SharedLimits(
        max_db_connections=_first(target.max_db_connections if target else None, default=settings.max_db_connections),
        max_user_connections=_first(own.max_user_connections, default=settings.max_user_connections),
        max_db_client_connections=_first(
            target.max_db_client_connections if target else None, default=settings.max_db_client_connections
        ),
        max_user_client_connections=_first(
            own.max_user_client_connections, default=settings.max_user_client_connections
        ),
    )


_NOTHING = UserSettings.model_construct()
"""What holds for a user without an entry: nothing of its own."""
