import asyncio
import socket
import ssl

from tidegate_proxy.net.transport import Receiver

class DirectTransport(asyncio.Transport):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Receiver, goes_first: bool = False
    ) -> None: ...
    def detach(self) -> socket.socket: ...

class TLSTransport(DirectTransport):
    handshake: asyncio.Future[None]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: Receiver,
        context: ssl.SSLContext,
        server_side: bool,
        server_hostname: str | None = None,
        goes_first: bool = False,
        received: bytes = b"",
    ) -> None: ...
