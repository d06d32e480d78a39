"""How many clients there are: of all workers together, where there are several."""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections import Counter
from collections.abc import Sequence

_WINDOW = 64
"""Slots in which a name may stand, from the one that its hash gives."""

_KEY, _COUNT = struct.Struct("=Q"), struct.Struct("=I")


class Region:
    """What one worker publishes: how many clients it has, and how many of each name (an address, a user, a database).

    It alone writes here, and all read: nobody waits for anybody. A name is a hash in a table of slots with one count
    each. Parameters: `memory`, which all have; `begin`, the region's offset in it; `slots`, several for each client.
    """

    def __init__(self, memory: mmap.mmap, begin: int, slots: int) -> None:
        self._memory = memory
        self._total = begin
        self._keys = begin + _KEY.size
        self._counts = self._keys + (slots + _WINDOW) * _KEY.size
        self._slots = slots
        # Of the one who writes.
        self._slot_of: dict[bytes, int] = {}

    @staticmethod
    def size(slots: int) -> int:
        """Bytes that it takes."""
        return _KEY.size + (slots + _WINDOW) * (_KEY.size + _COUNT.size)

    @property
    def total(self) -> int:
        """All clients of the worker."""
        return int(_COUNT.unpack_from(self._memory, self._total)[0])

    @total.setter
    def total(self, count: int) -> None:
        _COUNT.pack_into(self._memory, self._total, count)

    def count(self, key: bytes) -> int:
        """Those of one name."""
        begin = self._first(key)
        end = begin + _WINDOW * _KEY.size
        at = self._memory.find(key, begin, end)
        while at >= 0 and (at - self._keys) % _KEY.size:
            at = self._memory.find(key, at + 1, end)
        if at < 0:
            return 0
        slot = (at - self._keys) // _KEY.size
        return int(_COUNT.unpack_from(self._memory, self._counts + slot * _COUNT.size)[0])

    def publish(self, key: bytes, count: int) -> None:
        """Those of one name are so many."""
        slot = self._slot_of.get(key)
        if slot is None:
            first = (self._first(key) - self._keys) // _KEY.size
            empty = (slot for slot in range(first, first + _WINDOW) if not self._key_at(slot))
            slot = next(empty, None)
            if slot is None:
                # Only by far more names than clients were expected: these are counted by their own worker alone.
                return
            self._slot_of[key] = slot
            self._memory[self._key_place(slot) : self._key_place(slot) + _KEY.size] = key
        _COUNT.pack_into(self._memory, self._counts + slot * _COUNT.size, count)
        if not count:
            _KEY.pack_into(self._memory, self._key_place(slot), 0)
            del self._slot_of[key]

    def _first(self, key: bytes) -> int:
        return self._keys + int(_KEY.unpack(key)[0]) % self._slots * _KEY.size

    def _key_place(self, slot: int) -> int:
        return self._keys + slot * _KEY.size

    def _key_at(self, slot: int) -> int:
        return int(_KEY.unpack_from(self._memory, self._key_place(slot))[0])


class Headcount:
    """Parameters: `regions`, of all workers, this one's own at `index`; none for a process alone."""

    def __init__(self, regions: Sequence[Region] = (), index: int = 0) -> None:
        self._own = regions[index] if regions else None
        self._others = [region for at, region in enumerate(regions) if at != index]
        self._total = 0
        self._of: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All clients."""
        return self._total + sum(region.total for region in self._others) if self._others else self._total

    def of(self, name: str) -> int:
        """Those of one name."""
        if not self._others:
            return self._of[name]
        key = _key(name)
        return self._of[name] + sum(region.count(key) for region in self._others)

    def change_total(self, by: int) -> None:
        """So many more have come here."""
        self._total += by
        if self._own is not None:
            self._own.total = self._total

    def change(self, name: str, by: int) -> None:
        """So many more of this name have come here."""
        self._of[name] += by
        if self._own is not None:
            self._own.publish(_key(name), self._of[name])
        if not self._of[name]:
            del self._of[name]


class Place:
    """What one connection takes, from when it is accepted until it has gone.

    Who takes a place first and then looks how many are taken is never one too many, whatever other workers do.
    Parameters: `source`, where it comes from; "" does not count as one.
    """

    __slots__ = ("_database", "_headcount", "_user", "source")

    def __init__(self, headcount: Headcount, source: str) -> None:
        self.source = source
        self._headcount = headcount
        self._database = self._user = ""
        headcount.change_total(1)
        if source:
            headcount.change(of_source(source), 1)

    def belongs_to(self, database: str, user: str) -> None:
        """It is a client of this database and user; called once."""
        self._database, self._user = database, user
        self._headcount.change(of_database(database), 1)
        self._headcount.change(of_user(user), 1)

    def leave(self) -> None:
        """It has gone; called once."""
        self._headcount.change_total(-1)
        if self.source:
            self._headcount.change(of_source(self.source), -1)
        if self._user:
            self._headcount.change(of_database(self._database), -1)
            self._headcount.change(of_user(self._user), -1)


def of_source(source: str) -> str:
    """The name for clients from one address."""
    return f"address {source}"


def of_database(database: str) -> str:
    """The name for clients of one database."""
    return f'database "{database}"'


def of_user(user: str) -> str:
    """The name for clients of one user."""
    return f'user "{user}"'


def _key(name: str) -> bytes:
    # Never zero, which is no name.
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=_KEY.size).digest()
    return digest if any(digest) else b"\1" * _KEY.size
