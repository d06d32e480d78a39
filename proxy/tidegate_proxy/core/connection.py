"""What both kinds of connection are to their transports."""

from __future__ import annotations


class Connection:
    """Whoever a transport of the core hands bytes to directly."""

    def data_received(self, data: bytes) -> None:
        """Take one chunk; called by the transport."""
        raise NotImplementedError
