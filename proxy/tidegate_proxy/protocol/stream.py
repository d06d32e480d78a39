"""What the conversations need of a connection; the shell around the protocol code implements it."""

from __future__ import annotations

from typing import Protocol


class MessageStream(Protocol):
    """A connection that reads whole messages and writes bytes."""

    @property
    def secure(self) -> bool:
        """Whether TLS is up."""

    @property
    def channel_binding(self) -> bytes | None:
        """The `tls-server-end-point` data of the TLS connection (RFC 5929), None without TLS."""

    async def read_message(self, limit: int) -> tuple[int, bytes]:
        """Wait for one message.

        Parameters: `limit`, bytes that its body may have.
        Returns: type byte (see `wire`) and body without the length word.
        Raises: ProxyError of the side that sent it for a length below 4 or a body above `limit`;
        ConnectionError when the connection ends.
        """

    def write(self, data: bytes) -> None:
        """Send `data`, at the latest when the next message is waited for."""
