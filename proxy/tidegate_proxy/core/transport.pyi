import asyncio
import socket

from tidegate_proxy.net.transport import Receiver

class DirectTransport(asyncio.Transport):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Receiver, goes_first: bool = False
    ) -> None: ...
    def detach(self) -> socket.socket: ...
