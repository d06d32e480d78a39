"""What the core has done in C where it is compiled, and by what Python has for it where it is not.

`Clock` is event-loop time, `Scanner` looks at bytes of messages in place, `Owed` is a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core import COMPILED

if TYPE_CHECKING or COMPILED:
    from tidegate_proxy.core.clock import Clock
    from tidegate_proxy.core.owed import Owed
    from tidegate_proxy.core.scan import Scanner
else:
    import time
    from collections import deque
    from struct import Struct

    from tidegate_proxy.core.suspect import is_suspect

    Owed = deque

    _pack_length = Struct(">I").pack

    class Clock:
        """Event-loop time in seconds."""

        def read(self) -> float:
            """Now."""
            return time.monotonic()

    class Scanner:
        """Looks at bytes of messages. Positions are never negative."""

        def find_nul(self, data: bytes, pos: int, limit: int) -> int:
            """Where the next NUL is in `data[pos:limit]`; -1 if there is none."""
            return data.find(0, pos, limit)

        def looks_plain(self, data: bytes, pos: int, limit: int) -> bool:
            """Whether nothing in the text `data[pos:limit]` can change the session; False says nothing."""
            return not is_suspect(data[pos:limit])

        def cut(self, data: bytes, pos: int, limit: int) -> bytes:
            """`data[pos:limit]`."""
            return data[pos:limit]

        def is_at(self, data: bytes, pos: int, limit: int, text: bytes) -> bool:
            """Whether `data[pos:limit]` is this text."""
            return data[pos:limit] == text

        def spliced(self, data: bytes, pos: int, limit: int, piece: bytes) -> bytes:
            """The data with `piece` for `data[pos:limit]`."""
            return data[:pos] + piece + data[limit:]

        def renamed(
            self, data: bytes, pos: int, limit: int, end: int, name_at: int, name_end: int, name: bytes
        ) -> bytes:
            """The message `data[pos:end]`, of which `data[pos:limit]` is there, with `name` for
            `data[name_at:name_end]`."""
            length = end - pos - 1 + len(name) - (name_end - name_at)
            return data[pos : pos + 1] + _pack_length(length) + data[pos + 5 : name_at] + name + data[name_end:limit]


__all__ = ["Clock", "Owed", "Scanner"]
