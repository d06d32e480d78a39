"""The waits of the layer, blocking and in asyncio, behind one interface.

What the layer does is written once, as coroutines that wait through one of these. With `Blocking` nothing ever
suspends, so `run` gets a coroutine's result by starting it, without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from psycopg.pq.abc import PGconn

from .connection import AnyConnection, AsyncConnection, Connection

R = TypeVar("R")


class Waits(Protocol):
    """What the layer needs of the world. Times are on time.monotonic()'s clock."""

    def connection(self, pgconn: PGconn) -> AnyConnection:
        """psycopg's object around an open connection."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def ready(self, fd: int, events: int, until: float) -> bool:
        """Wait for one of `events` (select.POLLIN, POLLOUT), or a failure; returns whether one came in time."""
        ...

    async def call(self, function: Callable[..., R], *arguments: object) -> R:
        """Call what may block but keeps to a deadline itself."""
        ...

    async def addresses(self, host: str, port: int, until: float) -> list[str]:
        """A host's addresses, in the resolver's order. Raises: OSError; TimeoutError when there is no time left."""
        ...

    async def result(self, returned: Any) -> Any:
        """The result of what was called on the connection or is the user's: waited for, if it has to be."""
        ...


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that waits through `Blocking` alone."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking database was made to wait in an event loop")


class Blocking:
    """Waits that block the thread."""

    def connection(self, pgconn: PGconn) -> AnyConnection:
        return Connection(pgconn)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 -- there is no event loop

    async def ready(self, fd: int, events: int, until: float) -> bool:
        return ready(fd, events, until)

    async def call(self, function: Callable[..., R], *arguments: object) -> R:
        return function(*arguments)

    async def addresses(self, host: str, port: int, until: float) -> list[str]:
        if _is_address(host):
            return [host]
        return in_thread(lambda: _unique(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)), until)

    async def result(self, returned: Any) -> Any:
        return returned


class Asyncio:
    """Waits that leave the event loop to others."""

    def connection(self, pgconn: PGconn) -> AnyConnection:
        return AsyncConnection(pgconn)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def ready(self, fd: int, events: int, until: float) -> bool:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not came.done():
                came.set_result(None)

        add, remove = (
            (loop.add_reader, loop.remove_reader) if events == select.POLLIN else (loop.add_writer, loop.remove_writer)
        )
        add(fd, wake)
        try:
            done, _ = await asyncio.wait([came], timeout=max(0.0, until - time.monotonic()))
        finally:
            remove(fd)
            came.cancel()
        return bool(done)

    async def call(self, function: Callable[..., R], *arguments: object) -> R:
        return await asyncio.to_thread(function, *arguments)

    async def addresses(self, host: str, port: int, until: float) -> list[str]:
        if _is_address(host):
            return [host]
        # Not the loop's own look-up: asyncio.run would wait for one that hangs when the loop is closed.
        return await _from_thread(lambda: _unique(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)), until)

    async def result(self, returned: Any) -> Any:
        return await returned if isinstance(returned, Awaitable) else returned


def ready(fd: int, events: int, until: float) -> bool:
    """As `Waits.ready`, outside a coroutine."""
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(max(0.0, until - time.monotonic()) * 1000))


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _unique(found: list[Any]) -> list[str]:
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def in_thread(function: Callable[[], R], until: float) -> R:
    """A call that cannot be interrupted: it is left alone, on a thread that keeps nobody from ending, if it hangs.

    Parameters: `until`, a time on time.monotonic()'s clock.
    Raises: what the call does; TimeoutError if it has not ended by then.
    """
    outcome: list[Callable[[], R]] = []
    thread = threading.Thread(target=_record, args=(function, outcome.append), name="tidegate-call", daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if not outcome:
        raise TimeoutError("no answer in time")
    return outcome[0]()


async def _from_thread(function: Callable[[], R], until: float) -> R:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[Callable[[], R]] = loop.create_future()

    def deliver(outcome: Callable[[], R]) -> None:
        if not came.done():
            came.set_result(outcome)

    def hand_over(outcome: Callable[[], R]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(deliver, outcome)

    threading.Thread(target=_record, args=(function, hand_over), name="tidegate-call", daemon=True).start()
    try:
        outcome = await asyncio.wait_for(came, max(0.0, until - time.monotonic()))
    except TimeoutError:
        raise TimeoutError("no answer in time") from None
    return outcome()


def _record(function: Callable[[], R], tell: Callable[[Callable[[], R]], object]) -> None:
    try:
        result = function()
    except Exception as error:
        failure = error

        def fail() -> R:
            raise failure

        tell(fail)
    else:
        tell(lambda: result)
