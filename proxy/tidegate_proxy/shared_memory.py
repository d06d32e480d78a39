"""What all workers and their supervisor see at once: whether they are to end, and how many clients there are."""

from __future__ import annotations

import mmap
import os
import struct

from tidegate_proxy.headcount import Headcount, Region

_ORDER = struct.Struct("=II")
"""How often all were told to end, and how the last time: its place in SHUTDOWNS."""

_HEAD = 64

SHUTDOWNS = ("", "WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS")
"""The ways to end; see the console's SHUTDOWN."""

_FEWEST_SLOTS = 1024
_SLOTS_PER_CLIENT = 4
"""A client has three names at most: its address, its database and its user."""

_CHUNK = 1 << 16


class SharedMemory:
    """Parameters: `descriptor`, of the file; `workers`, how many there are."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, 0)
        self._size = (len(self._memory) - _HEAD) // workers
        slots = 1
        while Region.size(2 * slots) <= self._size:
            slots *= 2
        self._regions = [Region(self._memory, _HEAD + index * self._size, slots) for index in range(workers)]

    @classmethod
    def create(cls, workers: int, clients: int) -> SharedMemory:
        """New memory, for so many workers and clients. What is not used of it takes no memory."""
        slots = 1 << (max(_FEWEST_SLOTS, _SLOTS_PER_CLIENT * clients) - 1).bit_length()
        descriptor = os.memfd_create("shared memory")
        os.ftruncate(descriptor, _HEAD + workers * Region.size(slots))
        return cls(descriptor, workers)

    @property
    def shutdown(self) -> tuple[int, str]:
        """How often all were told to end, and how the last time."""
        count, how = _ORDER.unpack_from(self._memory)
        return count, SHUTDOWNS[how]

    def tell_to_end(self, how: str) -> None:
        """Tell all, also those that cannot be reached at present. Parameters: `how`, one of SHUTDOWNS."""
        count, _ = self.shutdown
        _ORDER.pack_into(self._memory, 0, count + 1, SHUTDOWNS.index(how))

    def headcount(self, index: int) -> Headcount:
        """The clients, for the worker of this number."""
        return Headcount(self._regions, index)

    def forget(self, index: int) -> None:
        """A worker has ended, and its clients have gone."""
        begin = _HEAD + index * self._size
        # By reads of the file: a look at memory that nobody has used would take some.
        for at in range(begin, begin + self._size, _CHUNK):
            part = os.pread(self.descriptor, min(_CHUNK, begin + self._size - at), at)
            if any(part):
                os.pwrite(self.descriptor, bytes(len(part)), at)
