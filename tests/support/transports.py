"""For tests of transports, and of what is called by them: connected sockets, and what a made-up transport has to be."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tidegate_proxy.core import COMPILED

if TYPE_CHECKING or not COMPILED:
    TransportBase = object
else:
    # The compiled core calls its own kind of transports without asking Python.
    from tidegate_proxy.core.transport import DirectTransport as TransportBase

__all__ = ["TransportBase", "connected"]


def connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    here.setblocking(False)
    return here, there
