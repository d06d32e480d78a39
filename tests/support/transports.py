"""What a transport that a test makes up has to be for the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core import COMPILED

if TYPE_CHECKING or not COMPILED:
    TransportBase = object
else:
    # The compiled core calls its own kind of transports without asking Python.
    from tidegate_proxy.core.transport import DirectTransport as TransportBase

__all__ = ["TransportBase"]
