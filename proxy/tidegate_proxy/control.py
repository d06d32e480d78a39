"""What an operator has stopped: databases that are paused, and those that take no new clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tidegate_proxy.console.parse import Command
from tidegate_proxy.errors import ClientProtocolError

if TYPE_CHECKING:
    from tidegate_proxy.pool.pool import Pool
    from tidegate_proxy.proxy import Proxy

_LOOK_AGAIN = 0.05
"""Seconds between two looks at whether what is waited for has come true."""


class Control:
    """Pauses and resumes, by database or as a whole. Parameters: the `proxy`."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._paused: set[str] = set()
        self._disabled: set[str] = set()
        self.all_paused = False
        # By SET, since the configuration was read last.
        self.changed: dict[str, str] = {}

    def is_paused(self, database: str) -> bool:
        """Whether its clients wait for RESUME."""
        return self.all_paused or database in self._paused

    def is_disabled(self, database: str) -> bool:
        """Whether it takes no new clients."""
        return database in self._disabled

    def admit(self, database: str) -> None:
        """Called for each new client. Raises: ClientProtocolError for a disabled database."""
        if database in self._disabled:
            raise ClientProtocolError(
                f'database "{database}" is disabled',
                sqlstate="55000",
                hint="An operator of the proxy has disabled it; try again later.",
            )

    def pool_made(self, pool: Pool) -> None:
        """A new pool of a paused database is paused, too."""
        if self.is_paused(pool.database):
            pool.pause()

    def pools(self, database: str | None) -> list[Pool]:
        """The pools of one database, or all of them."""
        return [pool for pool in self._proxy.pools if database is None or pool.database == database]

    def pause(self, database: str | None) -> None:
        """Let transactions end, close server connections, let clients wait."""
        if database is None:
            self.all_paused = True
        else:
            self._paused.add(database)
        for pool in self.pools(database):
            pool.pause()

    def resume(self, database: str | None) -> bool:
        """Go on. Returns: False if nothing was paused."""
        if database is None:
            if not (self.all_paused or self._paused):
                return False
            self.all_paused = False
            self._paused.clear()
        elif database not in self._paused:
            return False
        else:
            self._paused.discard(database)
        for pool in self.pools(database):
            if not self.is_paused(pool.database):
                pool.resume()
        return True

    def disable(self, database: str, disabled: bool) -> None:
        """Refuse new clients from now on, or no longer."""
        if disabled:
            self._disabled.add(database)
        else:
            self._disabled.discard(database)

    def kill(self, database: str | None) -> None:
        """End all clients and server connections now, and pause."""
        pools = self.pools(database)
        for client in [*self._proxy.clients]:
            if client.owner in pools:
                client.end()
        self.pause(database)
        for pool in pools:
            pool.kill()

    def standing(self) -> list[Command]:
        """The commands that make another worker what this one is."""
        return [
            *(Command("SET", setting, assigns=True) for setting in self.changed.items()),
            *(Command("DISABLE", (database,)) for database in sorted(self._disabled)),
            *(Command("PAUSE", (database,)) for database in sorted(self._paused)),
            *([Command("PAUSE", ())] if self.all_paused else []),
        ]

    async def until_closed(self, database: str | None) -> None:
        """Wait until there are no server connections."""
        await _until(lambda: not any(pool.servers for pool in self.pools(database)))

    async def until_renewed(self, database: str | None) -> None:
        """Wait until every server connection is closed that was to be closed at the call."""
        old = [(pool, server) for pool in self.pools(database) for server in pool.servers if pool.close_needed(server)]
        await _until(lambda: not any(server in pool.servers for pool, server in old))

    async def until_no_clients(self) -> None:
        """Wait until every client has gone."""
        await _until(lambda: not _any(self._proxy.clients))


def _any(things: Iterable[object]) -> bool:
    return next(iter(things), None) is not None


async def _until(condition: Callable[[], bool]) -> None:
    # What it depends on changes in many places of the per-message path, where an event would cost something.
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_AGAIN)
