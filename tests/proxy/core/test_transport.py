"""The compiled core's own transport: in which order things are told."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import closing
from typing import Any

import pytest
from tests.support.transports import connected

from tidegate_proxy.core import COMPILED
from tidegate_proxy.net.transport import plain

pytestmark = pytest.mark.skipif(not COMPILED, reason="the interpreted core has the event loop's transports")


class Witness(asyncio.Protocol):
    """Writes down under its own name what it is told."""

    def __init__(self, name: str, told: list[tuple[str, str]]) -> None:
        self.name = name
        self.told = told
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.told.append((self.name, data.decode()))

    def eof_received(self) -> None:
        self.told.append((self.name, "no more"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append((self.name, type(exc).__name__))
        self.lost.set()


@pytest.mark.parametrize("how", ["reset", "closed"])
def test_a_lost_server_is_known_before_a_client_that_spoke_earlier_is_heard(how: str) -> None:
    told: list[tuple[str, str]] = []

    async def run() -> None:
        (client, client_end), (server, server_end) = connected(), connected()
        with closing(client_end), closing(server_end):
            witness = Witness("server", told)
            transports = [
                await plain(client, Witness("client", told)),
                await plain(server, witness, goes_first=True),
            ]
            # Both in one turn of the loop.
            client_end.send(b"query")
            if how == "reset":
                server_end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server_end.close()
            async with asyncio.timeout(10):
                await witness.lost.wait()
            for transport in transports:
                transport.abort()
            await asyncio.sleep(0)

    asyncio.run(run())
    assert told[:2] == [("server", "no more"), ("client", "query")]
    assert told[2] == ("server", "ConnectionResetError" if how == "reset" else "NoneType")


def test_a_socket_that_is_taken_back_after_its_peer_reset_it_leaves_no_trace() -> None:
    faults: list[dict[str, object]] = []

    class TakesBack(Witness):
        transport: Any

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"S")
            self.transport.detach().close()
            self.lost.set()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        here, there = connected()
        witness = TakesBack("client", [])
        there.sendall(b"?")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        there.close()
        await plain(here, witness)
        async with asyncio.timeout(60):
            await witness.lost.wait()
        # Whatever was to be called soon.
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert faults == []
