"""A small TCP balancer: sends each new connection to the next target that says that it is ready, as an NLB does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import TracebackType
from typing import Self

import aiohttp

CHECK_INTERVAL = 0.2
"""Seconds between two health checks."""


class Target:
    """A proxy: its port, and the port of its /readyz."""

    def __init__(self, port: int, http_port: int) -> None:
        self.port = port
        self.ready_url = f"http://127.0.0.1:{http_port}/readyz"
        self.ready = False


class Balancer:
    """Listens on a free port of loopback while it is entered."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.port = 0
        self._turn = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checked = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000)
        self.port = self._server.sockets[0].getsockname()[1]
        self._checks = asyncio.create_task(self._check())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in (self._checks, *self._tasks):
            task.cancel()
        await asyncio.wait([self._checks, *self._tasks])

    async def until_ready(self, *targets: Target) -> None:
        """Wait until all these targets are ready, and no others are."""
        async with asyncio.timeout(60), self._checked:
            await self._checked.wait_for(lambda: {target for target in self.targets if target.ready} == set(targets))

    async def _check(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http:
            while True:
                for target in self.targets:
                    try:
                        async with http.get(target.ready_url) as answer:
                            target.ready = answer.status == 200
                    except (aiohttp.ClientError, TimeoutError):
                        target.ready = False
                async with self._checked:
                    self._checked.notify_all()
                await asyncio.sleep(CHECK_INTERVAL)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ready = [target for target in self.targets if target.ready]
        try:
            if ready:
                target = ready[next(self._turn) % len(ready)]
                away, back = await asyncio.open_connection("127.0.0.1", target.port)
                try:
                    await asyncio.gather(_copy(reader, back), _copy(away, writer))
                finally:
                    back.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
