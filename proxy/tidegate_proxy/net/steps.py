"""A stream that is read in steps, as the bytes come; what has to wait for something else is a future's, or a task's."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.net.stream import Stream


class SteppedStream(Stream, abc.ABC):
    """A conversation that is a chain of steps, each of which takes what has come, if that is enough for it.

    While a task is under way, there are no steps: then the stream is read by awaiting, as ever. Nor are there while
    a future is waited for.
    Parameters: `error` as of Stream; `loop`; `step`, the first one, which says whether it has taken something; `within`
    so many seconds it must be at its end.
    """

    __slots__ = ("_is_late", "_loop", "_step", "_task", "_timer", "_unsent")

    def __init__(
        self, error: type[ProxyError], loop: asyncio.AbstractEventLoop, step: Callable[[Any], bool], within: float
    ) -> None:
        super().__init__(error)
        self._loop = loop
        # None at the end.
        self._step: Callable[[Any], bool] | None = step
        self._task: asyncio.Future[Any] | None = None
        self._timer = loop.call_later(within, self._time_is_up)
        self._is_late = False
        # What is sent together with what comes next.
        self._unsent = b""

    @abc.abstractmethod
    def _failed(self, error: BaseException) -> None:
        """It can't go on: TimeoutError when it is late, CancelledError when it was cancelled, or any other error.

        Called once: it ends by `_end`.
        """

    def cancel(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._fail(asyncio.CancelledError())

    def _time_is_up(self) -> None:
        self._is_late = True
        self.cancel()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        super().data_received(data)
        if self._task is None:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        if self._task is None:
            self._go_on()

    def _go_on(self) -> None:
        """Take what has come, as far as that is possible without waiting."""
        try:
            while self._step is not None and self._task is None and self._step(self):
                pass
            if self._lost is not None and self._task is None:
                raise ConnectionResetError("the connection was closed")
        except Exception as error:
            self._fail(error)

    def _wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on in a task, and after that with the step that there is by then."""
        if self._unsent:
            self.write(b"")
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._waited)

    def _waited(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._go_on()
        else:
            self._fail(error)

    def _wait_until_done(self, awaited: asyncio.Future[Any]) -> None:
        """Go on with the step when it is done, whether it failed or not: that is for the step to ask."""
        self._task = awaited
        awaited.add_done_callback(self._done)

    def _done(self, awaited: asyncio.Future[Any]) -> None:
        self._task = None
        if awaited.cancelled():
            self._fail(asyncio.CancelledError())
        else:
            self._go_on()

    def _fail(self, error: BaseException) -> None:
        if self._step is not None:
            late = self._is_late and isinstance(error, asyncio.CancelledError)
            self._failed(TimeoutError() if late else error)

    def _end(self) -> None:
        """It is at its end, in whatever way."""
        self._step = None
        self._timer.cancel()

    def write(self, data: bytes) -> None:
        """Send, after what was left to be sent with the next."""
        if self._unsent:
            data = self._unsent + data
            self._unsent = b""
        self.transport.write(data)
