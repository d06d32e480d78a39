"""Where a server is, and which of several servers a pool's connection belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Endpoint:
    """Host name or IP address and TCP port of a server."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> Endpoint:
        """An endpoint as it is written in the configuration: `host`, `host:port`, an IPv6 address in brackets.

        Raises: ValueError for a port that is none.
        """
        host, separator, port = text.rpartition(":")
        if not separator or (text.count(":") > 1 and not host.endswith("]")):
            host, port = text, str(default_port)
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
            raise ValueError("has a port that is not a whole number from 1 to 65535")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Place:
    """What a server connection was opened to.

    - `endpoint`: by which name.
    - `epoch`: changes whenever another server, or another life of the same one, is found behind that name.
    - `address`: the IP address at which the proxy's control connection is, None where the name is to be resolved.
    """

    endpoint: Endpoint
    epoch: int = 0
    address: str | None = None
