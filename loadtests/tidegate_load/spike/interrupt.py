"""Ctrl-C that is acted on only where it is safe: never between starting a process and knowing of it."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self


class InterruptedRunError(Exception):
    """Someone asked us to stop; `signal` is the number of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interruption:
    """While entered, SIGINT, SIGTERM and SIGHUP are only remembered; `check` and `wait` raise for them.

    All that lies between two calls of `check` runs to its end, clean-up above all, however often Ctrl-C is
    pressed.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._number: int | None = None
        self._event = threading.Event()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._number is None:
            self._number = number
        self._event.set()

    def check(self) -> None:
        """Raises: InterruptedRunError if a signal has come."""
        if self._number is not None:
            raise InterruptedRunError(self._number)

    def wait(self, seconds: float) -> None:
        """Pause for `seconds`, or less if a signal comes. Raises: InterruptedRunError."""
        deadline = time.monotonic() + seconds
        while not self._event.is_set() and (left := deadline - time.monotonic()) > 0:
            self._event.wait(min(left, 0.2))
        self.check()
