"""SQLAlchemy 2 with its psycopg and asyncpg dialects."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, func, inspect, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.types import Integer
from tests.drivers.endpoints import CLIENTS, CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint, in_threads


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    placed: Mapped[dt.datetime] = mapped_column(server_default=func.now())
    tags: Mapped[list[int]] = mapped_column(ARRAY(Integer), default=list)
    extra: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)
    lines: Mapped[list[Line]] = relationship(back_populates="order", cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    amount: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")


def with_engine(endpoint: Endpoint, work: Callable[[Engine], None], **keywords: Any) -> None:
    """Run `work` with an engine of the psycopg dialect."""
    engine = create_engine(endpoint.url("postgresql+psycopg"), **keywords)
    try:
        work(engine)
    finally:
        engine.dispose()


def with_async_engine(endpoint: Endpoint, dialect: str, work: Callable[[AsyncEngine], Any], **keywords: Any) -> None:
    """Run `work` with an asynchronous engine."""

    async def run() -> None:
        engine = create_async_engine(endpoint.url(f"postgresql+{dialect}"), **keywords)
        try:
            await work(engine)
        finally:
            await engine.dispose()

    asyncio.run(run())


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.connect() as one, engine.connect() as two:
            for conn in (one, two, one, two):
                assert conn.execute(text("SELECT 1")).scalar() == 1
                conn.commit()

    with_engine(narrow_endpoint, work, pool_pre_ping=True)
    assert narrow_endpoint.pins() == []


@pytest.mark.parametrize("dialect", ["psycopg", "asyncpg"])
def test_starting_up_asynchronously_does_not_pin(narrow_endpoint: Endpoint, dialect: str) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.connect() as one, engine.connect() as two:
            for conn in (one, two, one, two):
                assert await conn.scalar(text("SELECT 1")) == 1
                await conn.commit()

    with_async_engine(narrow_endpoint, dialect, work, pool_pre_ping=True)
    assert narrow_endpoint.pins() == []


def test_objects_are_created_read_updated_and_deleted(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            lines = [Line(amount=amount) for amount in range(1, 51)]
            session.add(Order(number="A", tags=[1, 2], extra={"ü": [None]}, lines=lines))
            session.add(Order(number="B"))
            session.commit()
        with Session(engine) as session:
            order = session.scalars(select(Order).options(selectinload(Order.lines)).filter_by(number="A")).one()
            assert (order.tags, order.extra, sum(line.amount for line in order.lines)) == ([1, 2], {"ü": [None]}, 1275)
            order.lines = order.lines[:2]
            session.execute(update(Order).where(Order.number == "B").values(tags=[7]))
            session.commit()
            assert session.scalar(select(func.count()).select_from(Line)) == 2
            assert session.scalar(select(Order.tags).where(Order.number == "B")) == [7]
        assert sorted(inspect(engine).get_table_names()) == ["lines", "orders"]
        assert [column["name"] for column in inspect(engine).get_columns("lines")] == ["id", "order_id", "amount"]
        Base.metadata.drop_all(engine)

    with_engine(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


@pytest.mark.parametrize("dialect", ["psycopg", "asyncpg"])
def test_objects_asynchronously(narrow_endpoint: Endpoint, dialect: str) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.begin() as conn:
            await conn.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Order(number="A", tags=[1, 2], extra={"ü": [None]}, lines=[Line(amount=5)]))
            await session.commit()
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    session.add(Order(number="A"))
            session.add(Order(number="C"))
            await session.commit()
            orders = (await session.scalars(select(Order).options(selectinload(Order.lines)).order_by(Order.id))).all()
            assert [(order.number, len(order.lines)) for order in orders] == [("A", 1), ("C", 0)]
            stream = await session.stream_scalars(text("SELECT generate_series(1, 3000)"))
            assert sum([number async for number in stream]) == 4501500

    with_async_engine(narrow_endpoint, dialect, work)
    assert narrow_endpoint.pins() == []


def test_transactions_and_savepoints(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add(Order(number="A"))
            session.flush()
            with pytest.raises(IntegrityError, match="duplicate key"), session.begin_nested():
                session.add(Order(number="A"))
            session.add(Order(number="B"))
            session.commit()
            session.add(Order(number="C"))
            session.flush()
            session.rollback()
        with engine.connect() as conn:
            assert conn.execute(select(Order.number).order_by(Order.number)).scalars().all() == ["A", "B"]

    with_engine(narrow_endpoint, work)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED", "AUTOCOMMIT"])
def test_isolation_levels(narrow_endpoint: Endpoint, level: Any) -> None:
    def work(engine: Engine) -> None:
        seen = select(func.current_setting("transaction_isolation"))
        with engine.connect() as plain, engine.connect() as conn:
            conn = conn.execution_options(isolation_level=level)
            expected = "read committed" if level == "AUTOCOMMIT" else level.lower()
            assert conn.scalar(seen) == expected
            conn.rollback()
            assert plain.scalar(seen) == "read committed"
            plain.rollback()
        with engine.connect() as again:
            assert again.scalar(seen) == "read committed"

    with_engine(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


@pytest.mark.parametrize("dialect", ["psycopg", "asyncpg"])
def test_isolation_levels_asynchronously(narrow_endpoint: Endpoint, dialect: str) -> None:
    async def work(engine: AsyncEngine) -> None:
        seen = select(func.current_setting("transaction_isolation"))
        async with engine.connect() as plain, engine.connect() as conn:
            await conn.execution_options(isolation_level="SERIALIZABLE")
            assert await conn.scalar(seen) == "serializable"
            await conn.rollback()
            assert await plain.scalar(seen) == "read committed"

    with_async_engine(narrow_endpoint, dialect, work)
    assert narrow_endpoint.pins() == []


def test_pre_ping_replaces_connections_that_the_database_ended(endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.connect() as conn:
            conn.execute(text("SELECT 1"))
        with endpoint.database.server.connect() as admin:
            query = "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = %s"
            assert (True,) in admin.execute(query, [endpoint.database.name]).fetchall()
        with engine.connect() as conn:
            assert conn.execute(text("SELECT 1")).scalar() == 1

    with_engine(endpoint, work, pool_pre_ping=True, pool_size=1)


def test_two_phase_commits(endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.begin() as conn:
            conn.execute(text("CREATE TABLE t (a int)"))
        with engine.connect() as conn:
            for value, prepared in enumerate(["commit", "rollback"]):
                transaction = conn.begin_twophase()
                conn.execute(text("INSERT INTO t VALUES (:a)"), {"a": value})
                transaction.prepare()
                getattr(transaction, prepared)()
            assert conn.execute(text("SELECT a FROM t")).scalars().all() == [0]

    with_engine(endpoint, work)
    assert endpoint.pins() == []


def test_rows_by_and_by_from_a_cursor_on_the_server(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.connect() as conn:
            rows = conn.execution_options(yield_per=100).execute(text("SELECT generate_series(1, 3000)"))
            assert sum(rows.scalars()) == 4501500
        with engine.connect() as conn:
            assert conn.scalar(text("SELECT 1")) == 1

    with_engine(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_errors_have_their_own_classes(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.connect() as conn:
            for statement, error, state in [
                ("SELECT * FROM nowhere", ProgrammingError, "42P01"),
                ("SELECT 1/0", DBAPIError, "22012"),
            ]:
                with pytest.raises(error) as raised:
                    conn.execute(text(statement))
                assert raised.value.orig is not None
                assert getattr(raised.value.orig, "sqlstate", None) == state
                conn.rollback()

    with_engine(narrow_endpoint, work)


def test_settings_made_at_connect_are_kept_apart(narrow_endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        def set_up(connection: Any, _: object) -> None:
            connection.execute("SET search_path TO pg_catalog")
            connection.execute("SET statement_timeout TO '33s'")
            connection.commit()

        event.listen(engine, "connect", set_up)
        plain = create_engine(narrow_endpoint.url("postgresql+psycopg"))
        with engine.connect() as one, plain.connect() as two:
            for conn, path, timeout in [(one, "pg_catalog", "33s"), (two, '"$user", public', "0")] * 2:
                assert conn.scalar(text("SELECT current_setting('search_path')")) == path
                assert conn.scalar(text("SELECT current_setting('statement_timeout')")) == timeout
                conn.rollback()
        plain.dispose()

    with_engine(narrow_endpoint, work)
    assert narrow_endpoint.pins() == []


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    def work(engine: Engine) -> None:
        with engine.begin() as conn:
            for statement in CREATE_LEDGER:
                conn.execute(text(statement))

        def client(number: int) -> None:
            for turn in range(ROUNDS):
                for commits in (False, True):
                    with Session(engine) as session:
                        session.execute(text("INSERT INTO entries VALUES (:c, :t)"), {"c": number, "t": turn})
                        session.execute(text("UPDATE counter SET n = n + 1"))
                        if commits:
                            session.commit()

        in_threads(client)
        with engine.connect() as conn:
            assert tuple(conn.execute(text(LEDGER_TOTALS)).one()) == FULL_LEDGER

    with_engine(endpoint, work, pool_size=CLIENTS)
    assert endpoint.pins() == []


@pytest.mark.parametrize("dialect", ["psycopg", "asyncpg"])
def test_nothing_is_lost_with_twenty_tasks(endpoint: Endpoint, dialect: str) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.begin() as conn:
            for statement in CREATE_LEDGER:
                await conn.execute(text(statement))

        async def client(number: int) -> None:
            for turn in range(ROUNDS):
                for commits in (False, True):
                    async with AsyncSession(engine) as session:
                        await session.execute(text("INSERT INTO entries VALUES (:c, :t)"), {"c": number, "t": turn})
                        await session.execute(text("UPDATE counter SET n = n + 1"))
                        if commits:
                            await session.commit()

        await asyncio.gather(*map(client, range(CLIENTS)))
        async with engine.connect() as conn:
            assert tuple((await conn.execute(text(LEDGER_TOTALS))).one()) == FULL_LEDGER

    with_async_engine(endpoint, dialect, work, pool_size=CLIENTS)
    assert endpoint.pins() == []
