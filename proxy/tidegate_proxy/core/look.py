"""Looking at bytes of messages in place, and at the clock: compiled, or by what Python has for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core import COMPILED
from tidegate_proxy.core.suspect import is_suspect

if TYPE_CHECKING or COMPILED:
    from tidegate_proxy.core.clock import Clock
else:
    import time

    class Clock:
        """Event-loop time in seconds."""

        def read(self) -> float:
            """Now."""
            return time.monotonic()


if COMPILED:
    from tidegate_proxy.core.scan import find_nul, looks_plain
else:

    def find_nul(data: bytes, pos: int, limit: int) -> int:
        """Where the next NUL is in `data[pos:limit]`; -1 if there is none."""
        return data.find(0, pos, limit)

    def looks_plain(data: bytes, pos: int, size: int) -> bool:
        """Whether nothing in the text `data[pos:size]` can change the session; False says nothing."""
        return not is_suspect(data[pos:size])


__all__ = ["Clock", "find_nul", "looks_plain"]
