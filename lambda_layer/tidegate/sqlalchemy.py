"""SQLAlchemy on the layer's connection: `tidegate.sqlalchemy.create_engine(db)`.

The engine has no pool of its own. Each time that it wants a connection it borrows the layer's, checked and within the
deadline, and gives it back where it would close it. SQLAlchemy commits and rolls back; it wraps the layer's errors,
which are psycopg's, too, as it wraps all of psycopg's: look at `error.orig`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.pool import NullPool

from .database import Database
from .errors import ConfigurationError

_NOT_OURS = {"creator", "poolclass", "pool", "pool_size", "max_overflow", "connect_args", "module", "pool_pre_ping"}


def create_engine(db: Database, **keywords: Any) -> sqlalchemy.Engine:
    """An engine that works on the layer's one connection.

    Parameters: `db`, from `tidegate.connect`; `keywords`, as sqlalchemy.create_engine's, except those that are about
    connecting or pooling. One Session or Connection at a time may be in use.
    Raises: ConfigurationError for a keyword that would go around the layer. Borrowing raises what `db.connection()`
    does; sqlalchemy.exc.OperationalError has DeadlineExceeded or CommitOutcomeUnknown as its `orig` where a statement
    or COMMIT does.

    Example:
        db = tidegate.connect()
        engine = tidegate.sqlalchemy.create_engine(db)

        @db.handler
        def handler(event, context):
            with Session(engine) as session:
                ...
    """
    if wrong := _NOT_OURS & keywords.keys():
        raise ConfigurationError(
            f"create_engine got {', '.join(sorted(wrong))}: connecting and pooling are the layer's; set them with"
            " tidegate.connect(...), for example tidegate.connect(connect_timeout=5)"
        )
    engine = sqlalchemy.create_engine(
        "postgresql+tidegate://", creator=db.borrow_for_engine, poolclass=NullPool, **keywords
    )
    assert isinstance(engine.dialect, Dialect)
    engine.dialect.give_back = db.give_back_from_engine

    def learn(context: sqlalchemy.engine.ExceptionContext) -> None:
        db.notice_from_engine(context.original_exception)

    sqlalchemy.event.listen(engine, "handle_error", learn)
    return engine


class Dialect(PGDialect_psycopg):
    """SQLAlchemy's own dialect for psycopg 3, on connections that outlive a check-out."""

    supports_statement_cache = True

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)  # type: ignore[no-untyped-call]
        self.give_back: Callable[[], None] = lambda: None

    def on_connect(self) -> Any:
        prepare = super().on_connect()  # type: ignore[no-untyped-call]
        if prepare is None:
            return None

        def once(conn: Any) -> None:
            # Handlers and adapters, which stay with the connection: a borrow is no new connection.
            if not getattr(conn, "known_to_sqlalchemy", False):
                prepare(conn)
                conn.known_to_sqlalchemy = True

        return once

    def do_close(self, dbapi_connection: Any) -> None:
        self.give_back()

    def do_terminate(self, dbapi_connection: Any) -> None:
        self.give_back()


registry.register("postgresql.tidegate", __name__, "Dialect")
