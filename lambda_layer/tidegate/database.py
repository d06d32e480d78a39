"""The database as a function sees it: one connection per execution environment, checked, cleaned, kept."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from . import blame, lifecycle
from .config import Config
from .connection import Connection
from .core import Core
from .errors import ConfigurationError, TidegateError
from .restoring import roll_back
from .waits import Blocking, run

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")
C = TypeVar("C")

logger = logging.getLogger("tidegate")


class Database:
    """One PostgreSQL connection, opened once and reused. Made by `tidegate.connect`.

    In an invocation its deadline bounds every wait, for a connection as for an answer. Outside of one,
    `default_timeout` bounds the waits for a connection, and statements take the time that they take.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._core = Core(config, Blocking())
        lifecycle.register(self)

    def __repr__(self) -> str:
        return f"<tidegate.Database {self._core!r}>"

    # -- invocations -----------------------------------------------------------------------------------------

    def handler(self, function: Callable[[E, C], R]) -> Callable[[E, C], R]:
        """Decorate a Lambda handler: its context gives the deadline; the connection is cleaned afterwards."""
        if inspect.iscoroutinefunction(function):
            raise TidegateError(
                f"{function.__name__} is asynchronous: use tidegate.connect_async() for it, and its handler decorator"
            )
        core = self._core

        @functools.wraps(function)
        def wrapper(event: E, context: C) -> R:
            if not core.begin(context):
                return function(event, context)
            try:
                return function(event, context)
            finally:
                if not core.end_at_once():
                    run(core.clean_up())

        return wrapper

    def invocation(self, context: object = None) -> Invocation:
        """What `handler` does, for code that cannot be decorated: `with db.invocation(context): ...`.

        Inside another invocation it does nothing.

        Parameters: `context`, Lambda's context object; anything without `get_remaining_time_in_millis` means
        `default_timeout` seconds.
        """
        return Invocation(self._core, context)

    # -- connections -----------------------------------------------------------------------------------------

    def connection(self) -> Borrowed:
        """Borrow the connection for a `with` block, which commits at its end, or rolls back if it raises.

        The block gets a psycopg.Connection that is alive, in no transaction, and has no settings of its own. It stays
        open.

        Raises: DeadlineExceeded, also for a statement that was cancelled at the deadline; CommitOutcomeUnknown;
        psycopg.OperationalError at once where connecting cannot succeed; TidegateError if it is borrowed already,
        since two users of one connection would share a transaction.
        """
        return Borrowed(self._core)

    def transaction(self, function: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(conn, *args, **kwargs)` in a transaction, and run it again where that is safe.

        It is run again, as a whole, after a serialization failure or deadlock (40001, 40P01), when the server
        is full or going down (53300, 57P0x), when it has become read-only (25006), and when the connection was lost
        before COMMIT was sent, or the server says that the COMMIT did not happen; with pauses, until the deadline.
        So it must have no effect but through `conn`, and must not end the transaction itself.

        Returns: what the function returned in the run that committed; None if it raised psycopg.Rollback.
        Raises: CommitOutcomeUnknown when the answer to COMMIT was lost and nobody can tell; DeadlineExceeded; the
        function's own exception; the last psycopg.Error when there is no time for another run or too many were made.
        """
        return run(self._core.transaction(function, args, kwargs, blame.place()))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection, if there is one. The next use opens another."""
        self._core.close()

    def open_at_init(self) -> None:
        """Try once to connect, for `init_timeout` seconds; a failure is logged and left to the first use."""
        run(self._core.open_at_init())

    # -- SQLAlchemy ------------------------------------------------------------------------------------------

    def borrow_for_engine(self) -> Connection:
        """Borrow the connection until `give_back_from_engine`; whoever has it commits or rolls back."""
        conn: Any = Borrowed(self._core).__enter__()
        return conn  # type: ignore[no-any-return]

    def notice_from_engine(self, error: BaseException) -> None:
        """Learn from what a statement of the engine's failed with."""
        self._core.notice(error)

    def give_back_from_engine(self) -> None:
        """The engine is done with the connection."""
        _give_back(self._core)

    # -- life cycle ------------------------------------------------------------------------------------------

    def before_snapshot(self) -> None:
        """Close the connection: a snapshot is restored many times, and long after."""
        self._core.close()

    def after_restore(self) -> None:
        """Connect anew, with a token or a secret of now; whatever is wrong is left to the first use."""
        self._core.forget_logins()
        try:
            self.open_at_init()
        except ConfigurationError as error:
            logger.error("no connection after the restore, and the first use will fail: %s", error)

    def forked(self) -> None:
        """Leave the parent's connection alone: this is a child process."""
        self._core.forked()

    def close_quickly(self) -> None:
        """Say goodbye to the server without waiting for anything."""
        self._core.close()


class Invocation:
    """One invocation, as a `with` block."""

    def __init__(self, core: Core, context: object) -> None:
        self._core = core
        self._context = context
        self._outermost = False

    def __enter__(self) -> None:
        self._outermost = self._core.begin(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outermost and not self._core.end_at_once():
            run(self._core.clean_up())


class Borrowed:
    """The connection, for a `with` block."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._conn: Connection | None = None

    def __enter__(self) -> Connection:
        place = blame.place()
        conn: Any = self._core.take(place) or run(self._core.borrow(place))
        self._conn = conn
        return conn  # type: ignore[no-any-return]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        core, conn = self._core, self._conn
        assert conn is not None
        try:
            if error is not None:
                core.notice(error)
                run(roll_back(conn, core.waits))
            elif not conn.closed:
                # As psycopg's own block: whatever closed it has been raised already.
                conn.commit()
        except psycopg.Error:
            run(roll_back(conn, core.waits))  # of a COMMIT that was not sent
            raise
        finally:
            _give_back(core)


def _give_back(core: Core) -> None:
    if not core.give_back():
        run(core.give_back_cleaned())
