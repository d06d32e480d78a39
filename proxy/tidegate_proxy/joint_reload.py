"""A new configuration for several workers: one of them reads it, and all take it over or none does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tidegate_proxy.settings import ConfigurationError, Settings
from tidegate_proxy.shared_configuration import Place, SharedConfiguration
from tidegate_proxy.worker_connection import Message, WorkerConnection, connected
from tidegate_proxy.workers import worker_settings

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy
    from tidegate_proxy.workers import Team

logger = logging.getLogger(__name__)

_GREETS_WITHIN = 30.0
"""Seconds: one that is being started is waited for, or else it would begin with what no longer holds."""
_ANSWERS_WITHIN = 60.0
_LONGEST = 1 << 16

Tell = Callable[[Message], Awaitable[None]]


class JointReload:
    """What one worker does for it. Parameters: its `proxy`; the `team`; the `configuration` that all have."""

    def __init__(self, proxy: Proxy, team: Team, configuration: SharedConfiguration) -> None:
        self._proxy = proxy
        self._team = team
        self._configuration = configuration

    async def lead(self, read_again: Callable[[], Settings]) -> list[str]:
        """Read the configuration, and have all workers take it over.

        Returns: the names of the settings that have changed.
        Raises: ConfigurationError when one of the workers can't have it, and then none has.
        """
        async with self._configuration.leading(), contextlib.AsyncExitStack() as stack:
            new = await asyncio.to_thread(read_again)
            change = await stack.enter_async_context(self._proxy.preparing(worker_settings(new, self._team)))
            place = await asyncio.to_thread(self._configuration.propose, new)
            others = self._team.others
            # Each keeps its connection until all have answered.
            prepared = await asyncio.gather(*(self._prepare(stack, index, place) for index in others))
            for index, (connection, refusal) in zip(others, prepared, strict=True):
                if connection is None or connection.lost:
                    raise ConfigurationError(f"worker {index}: {refusal or 'has ended meanwhile: try again'}")
            self._configuration.commit(place)
            await self._proxy.follow(change)
            connections = [connection for connection, _ in prepared if connection is not None]
            await asyncio.gather(*map(self._confirm, others, connections))
        return change.changed

    async def _prepare(
        self, stack: contextlib.AsyncExitStack, index: int, place: Place
    ) -> tuple[WorkerConnection | None, str]:
        """Returns: the connection to a worker that can have what stands at this place, or else why it can't."""
        try:
            connection = await stack.enter_async_context(
                connected(self._team.addresses[index], greets_within=_GREETS_WITHIN, longest=_LONGEST)
            )
            async with asyncio.timeout(_ANSWERS_WITHIN):
                answer = await connection.ask({"prepare": place})
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            logger.debug("worker %d does not answer: %r", index, error)
            return None, "does not answer: see the log, and try again"
        return (None, answer["refusal"]) if "refusal" in answer else (connection, "")

    async def _confirm(self, index: int, connection: WorkerConnection) -> None:
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                await connection.ask({"apply": True})
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            # One that has ended begins with it when it is started again.
            logger.warning("worker %d has not said that it has the new configuration: %r", index, error)

    async def join(self, reader: asyncio.StreamReader, tell: Tell, place: Place) -> None:
        """Do what another worker, which leads, asks for. Parameters: `tell`, sends it an answer."""
        version = self._configuration.version
        new = worker_settings(await asyncio.to_thread(self._configuration.proposed, place), self._team)
        try:
            async with self._proxy.preparing(new) as change:
                await tell({})
                # It tells, or it has ended. Either way what it has written is what all have.
                await reader.readline()
                if self._configuration.version == version:
                    return
                await self._proxy.follow(change)
            logger.debug("the new configuration holds here, too")
            await tell({})
        except ConfigurationError as error:
            await tell({"refusal": str(error)})

    async def catch_up(self) -> None:
        """Take over what all have, if that has changed while this worker was being started."""
        _, settings = self._configuration.read()
        new = worker_settings(settings, self._team)
        if new != self._proxy.settings:
            async with self._proxy.preparing(new) as change:
                await self._proxy.follow(change)
