"""A server on an event loop in a thread of its own, for callers who have no loop."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

_PATIENCE = 30.0
"""Seconds in which the server must be up, and in the end gone."""


class LoopThread(ABC):
    """Serves while entered."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @abstractmethod
    def serving(self) -> AbstractAsyncContextManager[None]:
        """Serves while entered, on the thread's loop."""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_PATIENCE)
        self._loop.close()

    async def _run(self) -> None:
        self._end = asyncio.Event()
        async with self.serving():
            self._ready.set()
            await self._end.wait()
        # Some may still be about to answer clients who have gone.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
