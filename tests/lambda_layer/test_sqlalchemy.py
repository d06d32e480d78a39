"""SQLAlchemy on the layer's connection: the same deadline, the same reuse, no pool of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy
from sqlalchemy import exc, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.lambda_layer.helpers import Context, backend_of, connected, plain_connection, terminate
from tests.support.postgres import Database
from tests.support.relay import Relay

import tidegate
import tidegate.sqlalchemy


class Base(DeclarativeBase):
    pass


class Visit(Base):
    __tablename__ = "visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    page: Mapped[str]


def test_the_orm_works_over_many_invocations_on_one_connection(database: Database) -> None:
    with connected(database) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        Base.metadata.create_all(engine)
        pid = backend_of(db)

        @db.handler
        def handler(event: str, context: object) -> int:
            with Session(engine) as session:
                session.add(Visit(page=event))
                session.commit()
                return session.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(Visit)) or 0

        assert [handler(page, Context()) for page in ("a", "b", "c")] == [1, 2, 3]
        assert backend_of(db) == pid


def test_a_statement_takes_the_round_trips_that_psycopg_needs(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        engine = tidegate.sqlalchemy.create_engine(db)

        @db.handler
        def handler(event: object, context: object) -> object:
            with engine.begin() as conn:
                return conn.execute(text("SELECT 1")).scalar()

        handler({}, Context())  # SQLAlchemy asks the server about itself once
        before = relay.round_trips
        assert handler({}, Context()) == 1
        assert relay.round_trips - before == len(["BEGIN", "SELECT 1", "COMMIT"])


def test_a_dead_connection_is_replaced_before_sqlalchemy_sees_it(database: Database) -> None:
    with connected(database) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        with engine.connect() as conn:
            pid = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        terminate(database, pid)
        with engine.connect() as conn:
            assert conn.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid


def test_the_deadline_holds(database: Database) -> None:
    with connected(database) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        with pytest.raises(exc.OperationalError) as caught, db.invocation(Context(1.2)), engine.connect() as conn:
            conn.execute(text("SELECT pg_sleep(60)"))
        assert isinstance(caught.value.orig, tidegate.DeadlineExceeded)
        with db.invocation(Context()), engine.connect() as conn:
            assert conn.execute(text("SELECT 1")).scalar() == 1


def test_a_lost_commit_is_named(database: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        Base.metadata.create_all(engine)
        relay.reset_at(b"COMMIT", after_answer=True)
        with pytest.raises(exc.OperationalError) as caught, Session(engine) as session:  # noqa: PT012
            session.add(Visit(page="a"))
            session.commit()
        assert isinstance(caught.value.orig, tidegate.CommitOutcomeUnknown)


def test_isolation_levels_and_autocommit_do_not_reach_the_next_invocation(database: Database) -> None:
    with connected(database) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        with (
            db.invocation(Context()),
            engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn,
        ):
            conn.execute(text("SELECT 1"))
        with db.invocation(Context()), db.connection() as plain:
            assert plain.autocommit is False


def test_a_second_connection_at_once_is_refused_and_a_pool_too(database: Database) -> None:
    with connected(database) as db:
        engine = tidegate.sqlalchemy.create_engine(db)
        with engine.connect(), pytest.raises(tidegate.TidegateError, match="borrowed already"), engine.connect():
            pass
        with pytest.raises(tidegate.ConfigurationError, match="pool_size"):
            tidegate.sqlalchemy.create_engine(db, pool_size=5)


def test_a_server_that_has_become_read_only_is_left_for_the_writer(database: Database) -> None:
    with plain_connection(database, autocommit=True) as admin:
        admin.execute("CREATE TABLE work (id int)")
        admin.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
        with connected(database) as db:
            admin.execute(f'ALTER DATABASE "{database.name}" RESET default_transaction_read_only')
            engine = tidegate.sqlalchemy.create_engine(db)

            @db.handler
            def handler(event: object, context: object) -> None:
                with engine.begin() as conn:
                    conn.execute(text("INSERT INTO work VALUES (1)"))

            with pytest.raises(exc.InternalError, match="read-only"):
                handler({}, Context())
            handler({}, Context())
