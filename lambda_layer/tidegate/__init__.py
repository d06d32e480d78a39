"""Tidegate's Lambda layer: one PostgreSQL connection per execution environment, kept across invocations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

from . import lifecycle
from .config import resolve
from .database import Database
from .errors import CommitOutcomeUnknown, ConfigurationError, DeadlineExceeded, PasswordUnavailable, TidegateError
from .settings import Settings

if TYPE_CHECKING:
    from .asynchronous import AsyncDatabase

__all__ = [
    "AsyncDatabase",
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "Database",
    "DeadlineExceeded",
    "PasswordUnavailable",
    "TidegateError",
    "connect",
    "connect_async",
]


def connect(**settings: Unpack[Settings]) -> Database:
    """Configure a database and connect to it; call it at INIT, outside the handler.

    Parameters: each one is taken from the environment where it is not given (`TIDEGATE_HOST`, else `PGHOST`,
    and so on; `tidegate.settings.SETTINGS` lists them), else has its default. Times are in seconds.
    Returns: the database. If it cannot be reached now that is logged, and the first use tries again. Under SnapStart
    it connects after the restore.
    Raises: ConfigurationError, for settings only; never for the state of the database.

    Example:
        db = tidegate.connect()

        @db.handler
        def handler(event, context):
            with db.connection() as conn:
                return conn.execute("SELECT now()::text").fetchone()
    """
    database = Database(resolve(settings, os.environ))
    if not lifecycle.snapshot_follows():
        database.open_at_init()
    return database


def connect_async(**settings: Unpack[Settings]) -> AsyncDatabase:
    """Configure a database for asyncio handlers; the first use connects, or `await db.open()`.

    Parameters: as `connect`. Raises: ConfigurationError.

    Example:
        db = tidegate.connect_async()

        @db.handler
        async def answer(event, context):
            async with db.connection() as conn:
                return await (await conn.execute("SELECT now()::text")).fetchone()

        def handler(event, context):
            return asyncio.run(answer(event, context))
    """
    from .asynchronous import AsyncDatabase

    return AsyncDatabase(resolve(settings, os.environ))


def __getattr__(name: str) -> Any:
    if name == "AsyncDatabase":
        from .asynchronous import AsyncDatabase

        return AsyncDatabase
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
