"""The configuration that all workers have: one of them has read it, and whoever is started later takes it as it is."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pickle
import struct
from collections.abc import AsyncIterator, Iterator

from tidegate_proxy.settings import Settings

Place = tuple[int, int]
"""Where settings stand in the file: offset and size in bytes."""

_HEADER = struct.Struct("=QQQ")  # version, and the place of what holds
_CONTENT, _LEADER = 0, 1
"""Bytes of the file to lock: for a look or a change, and for as long as one worker leads all through a change."""

_LOOK_AGAIN = 0.02
"""Seconds between two looks at whether another worker still leads."""


class SharedConfiguration:
    """A file in memory with settings as they were validated, what was read of other files included.

    Only processes of one supervisor have it, which have the same secrets anyway: hence pickle.
    Parameters: `descriptor`, of the file.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        # The file's locks are a process's: they do not keep out its own tasks.
        self._leading = asyncio.Lock()

    @classmethod
    def create(cls, settings: Settings) -> SharedConfiguration:
        """A file with these settings, version 1."""
        new = cls(os.memfd_create("configuration"))
        new.commit(new.propose(settings))
        return new

    @property
    def version(self) -> int:
        """It grows whenever all workers have agreed on other settings."""
        with self._content(fcntl.LOCK_SH):
            version, _ = self._header()
        return version

    def read(self) -> tuple[int, Settings]:
        """The version, and the settings."""
        with self._content(fcntl.LOCK_SH):
            version, place = self._header()
            return version, self._load(place)

    def propose(self, settings: Settings) -> Place:
        """Write settings that do not hold yet, in place of those that were proposed before."""
        text = pickle.dumps(settings)
        with self._content(fcntl.LOCK_EX):
            _, (begin, size) = self._header()
            # Before or behind those that hold.
            offset = _HEADER.size if _HEADER.size + len(text) <= begin else max(_HEADER.size, begin + size)
            os.pwrite(self.descriptor, text, offset)
        return offset, len(text)

    def proposed(self, place: Place) -> Settings:
        """What `propose` has written at this place."""
        with self._content(fcntl.LOCK_SH):
            return self._load(place)

    def commit(self, place: Place) -> None:
        """What stands there holds for all from now on."""
        with self._content(fcntl.LOCK_EX):
            version, _ = self._header()
            os.pwrite(self.descriptor, _HEADER.pack(version + 1, *place), 0)

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """Nobody else changes what workers are told meanwhile."""
        async with self._leading:
            while not self._lead():  # noqa: ASYNC110 - another process has it
                await asyncio.sleep(_LOOK_AGAIN)
            try:
                yield
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _LEADER)

    def _lead(self) -> bool:
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LEADER)
        except OSError:
            return False
        return True

    def _header(self) -> tuple[int, Place]:
        version, offset, size = _HEADER.unpack(os.pread(self.descriptor, _HEADER.size, 0).ljust(_HEADER.size, b"\0"))
        return version, (offset, size)

    def _load(self, place: Place) -> Settings:
        offset, size = place
        settings = pickle.loads(os.pread(self.descriptor, size, offset))  # noqa: S301
        assert isinstance(settings, Settings)
        return settings

    @contextlib.contextmanager
    def _content(self, how: int) -> Iterator[None]:
        fcntl.lockf(self.descriptor, how, 1, _CONTENT)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _CONTENT)
