"""What Lambda does to an execution environment besides invoking it: snapshots, restores, shutdowns."""

from __future__ import annotations

import weakref
from typing import Protocol


class Managed(Protocol):
    """What is told about the life cycle. None of these may raise."""

    def before_snapshot(self) -> None:
        """Close every connection: a snapshot is restored many times, and long after."""

    def after_restore(self) -> None:
        """Forget what was cached (tokens) and connect anew, within limits; randomness is fresh already."""

    def close_quickly(self) -> None:
        """Close politely without waiting for any answer; called in a signal handler, 300 ms before the end."""


_registered: weakref.WeakSet[Managed] = weakref.WeakSet()


def register(database: Managed) -> None:
    """Have a database told about the life cycle for as long as it lives; only a weak reference is kept."""
    _registered.add(database)
