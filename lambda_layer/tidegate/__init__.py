"""Tidegate's Lambda layer: one PostgreSQL connection per execution environment, kept across invocations."""

from __future__ import annotations

import os

from .config import resolve
from .database import Database
from .errors import CommitOutcomeUnknown, ConfigurationError, DeadlineExceeded, TidegateError

__all__ = [
    "CommitOutcomeUnknown",
    "ConfigurationError",
    "Database",
    "DeadlineExceeded",
    "TidegateError",
    "connect",
]


def connect(
    *,
    host: str | None = None,
    port: int | str | None = None,
    dbname: str | None = None,
    user: str | None = None,
    password: str | None = None,
    sslmode: str | None = None,
    sslrootcert: str | None = None,
    application_name: str | None = None,
    connect_timeout: float | None = None,
    init_timeout: float | None = None,
    idle_check: float | None = None,
    margin: float | None = None,
    default_timeout: float | None = None,
) -> Database:
    """Configure a database and connect to it; call it at INIT, outside the handler.

    Parameters: each one is taken from the environment where it is not given (`TIDEGATE_HOST`, else `PGHOST`,
    and so on; `tidegate.config.SETTINGS` lists them), else has its default. Times are in seconds.
    Returns: the database. If it cannot be reached now that is logged, and the first use tries again.
    Raises: ConfigurationError, for settings only; never for the state of the database.

    Example:
        db = tidegate.connect()

        @db.handler
        def handler(event, context):
            with db.connection() as conn:
                return conn.execute("SELECT now()::text").fetchone()
    """
    explicit = {
        "host": host,
        "port": port,
        "dbname": dbname,
        "user": user,
        "password": password,
        "sslmode": sslmode,
        "sslrootcert": sslrootcert,
        "application_name": application_name,
        "connect_timeout": connect_timeout,
        "init_timeout": init_timeout,
        "idle_check": idle_check,
        "margin": margin,
        "default_timeout": default_timeout,
    }
    database = Database(resolve(explicit, os.environ))
    database.open_at_init()
    return database
