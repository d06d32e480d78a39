"""The same database for asyncio handlers. What it does is in `core`; here it is only awaited."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from . import blame, lifecycle
from .config import Config
from .connection import AsyncConnection
from .core import Core
from .restoring import roll_back
from .waits import Asyncio

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")
C = TypeVar("C")


class AsyncDatabase:
    """One PostgreSQL connection, opened once and reused. Made by `tidegate.connect_async`.

    It outlives the event loop: each invocation may have one of its own, as with asyncio.run. One task at a time may
    borrow the connection.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._core = Core(config, Asyncio())
        lifecycle.register(self)

    def __repr__(self) -> str:
        return f"<tidegate.AsyncDatabase {self._core!r}>"

    def handler(self, function: Callable[[E, C], Awaitable[R]]) -> Callable[[E, C], Awaitable[R]]:
        """As `Database.handler`, for an `async def`; Lambda's own handler then runs it with asyncio.run."""

        @functools.wraps(function)
        async def wrapper(event: E, context: C) -> R:
            async with self.invocation(context):
                return await function(event, context)

        return wrapper

    def invocation(self, context: object = None) -> AsyncInvocation:
        """As `Database.invocation`, for `async with`."""
        return AsyncInvocation(self._core, context)

    def connection(self) -> AsyncBorrowed:
        """As `Database.connection`, for `async with`: gives a psycopg.AsyncConnection."""
        return AsyncBorrowed(self._core)

    async def transaction(
        self, function: Callable[Concatenate[AsyncConnection, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `Database.transaction`, with an `async def`."""
        return await self._core.transaction(function, args, kwargs, blame.place())  # type: ignore[no-any-return]

    async def open(self) -> None:
        """Connect now rather than at the first use; a failure is logged and left to that."""
        await self._core.open_at_init()

    def close(self) -> None:
        """Close the connection, if there is one. The next use opens another."""
        self._core.close()

    def before_snapshot(self) -> None:
        """Close the connection: a snapshot is restored many times, and long after."""
        self._core.close()

    def after_restore(self) -> None:
        """Forget what was cached to log in with. The first use connects: there is no event loop here."""
        self._core.forget_logins()

    def forked(self) -> None:
        """Leave the parent's connection alone: this is a child process."""
        self._core.forked()

    def close_quickly(self) -> None:
        """Say goodbye to the server without waiting for anything."""
        self._core.close()


class AsyncInvocation:
    """One invocation, as an `async with` block."""

    def __init__(self, core: Core, context: object) -> None:
        self._core = core
        self._context = context
        self._outermost = False

    async def __aenter__(self) -> None:
        self._outermost = self._core.begin(self._context)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outermost and not self._core.end_at_once():
            await self._core.clean_up()


class AsyncBorrowed:
    """The connection, for an `async with` block."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._conn: AsyncConnection | None = None

    async def __aenter__(self) -> AsyncConnection:
        place = blame.place()
        conn: Any = self._core.take(place) or await self._core.borrow(place)
        self._conn = conn
        return conn  # type: ignore[no-any-return]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, conn = self._core, self._conn
        assert conn is not None
        try:
            if error is not None:
                core.notice(error)
                await roll_back(conn, core.waits)
            elif not conn.closed:
                await conn.commit()
        except psycopg.Error:
            await roll_back(conn, core.waits)  # of a COMMIT that was not sent
            raise
        finally:
            if not core.give_back():
                await core.give_back_cleaned()
