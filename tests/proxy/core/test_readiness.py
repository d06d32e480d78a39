"""Whatever comes to a socket is told, in order and to its end: with the core's own transports and with others."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import cast

import pytest
from tests.support.transports import connected

from tidegate_proxy.net.transport import plain

BULK = bytes(range(256)) * 4096
"""More than one call receives, and than socket buffers hold."""


class Reader(asyncio.Protocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.lost = asyncio.Event()
        self.news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.news.set()

    def eof_received(self) -> None:
        self.ended = True
        self.news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self.news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.news.clear()
                await self.news.wait()


def run(scenario: Callable[[asyncio.Transport, Reader, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        here, there = connected()
        reader = Reader()
        with closing(there):
            transport = await plain(here, reader)
            await scenario(transport, reader, there)
            transport.abort()
            await reader.until(reader.lost.is_set)

    asyncio.run(main())


async def turns() -> None:
    """Let the event loop look for what is ready, several times."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_end_behind_the_last_bytes_is_told() -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        # Both are there before the first look.
        peer.sendall(b"the last")
        peer.close()
        await reader.until(reader.lost.is_set)
        assert (bytes(reader.received), reader.ended) == (b"the last", True)

    run(scenario)


@pytest.mark.parametrize("closes", [True, False])
def test_more_than_one_look_brings_comes_to_its_end(closes: bool) -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        def send() -> None:
            peer.sendall(BULK)
            if closes:
                peer.close()

        await asyncio.gather(asyncio.to_thread(send), reader.until(lambda: len(reader.received) == len(BULK)))
        assert bytes(reader.received) == BULK
        if closes:
            await reader.until(reader.lost.is_set)
            assert reader.ended
        else:
            peer.sendall(b"more")
            await reader.until(lambda: reader.received.endswith(b"more"))

    run(scenario)


@pytest.mark.parametrize("ending", ["", "closed", "reset"])
def test_what_came_while_nobody_read_is_told_afterwards(ending: str) -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        peer.sendall(b"one")
        await reader.until(lambda: bool(reader.received))
        transport.pause_reading()
        peer.sendall(b" two")
        if ending == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ending:
            peer.close()
        await turns()
        assert bytes(reader.received) == b"one"
        transport.resume_reading()
        if ending != "reset":
            await reader.until(lambda: bytes(reader.received) == b"one two")
        if ending:
            await reader.until(reader.lost.is_set)

    run(scenario)


def test_a_reader_that_pauses_at_each_piece_gets_all_of_them() -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        sending = asyncio.create_task(asyncio.to_thread(peer.sendall, BULK))
        while len(reader.received) < len(BULK):
            before = len(reader.received)
            await reader.until(lambda before=before: len(reader.received) > before)  # type: ignore[misc]
            transport.pause_reading()
            await turns()
            transport.resume_reading()
        await sending
        assert bytes(reader.received) == BULK

    run(scenario)


def test_all_that_was_queued_is_sent_once_the_peer_reads() -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        for _ in range(8):
            transport.write(BULK)
        await turns()

        def take() -> bytes:
            received = bytearray()
            while len(received) < 8 * len(BULK) and (data := peer.recv(1 << 16)):
                received += data
            return bytes(received)

        assert await asyncio.wait_for(asyncio.to_thread(take), 60) == 8 * BULK

    run(scenario)


@pytest.mark.parametrize("ends", ["close", "abort", "stay"])
def test_what_is_written_as_an_answer_goes_out_in_order(ends: str) -> None:
    """Also in many pieces, and if the connection is closed in the same breath."""

    class Answering(Reader):
        transport: asyncio.Transport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            for number in range(3000):
                self.transport.write(b"%d " % number)
            self.transport.write(BULK[:100_000])
            self.transport.write(b"end")
            if ends != "stay":
                getattr(self.transport, ends)()

    async def main() -> None:
        here, there = connected()
        # So that the kernel takes all at once, and an abort loses nothing.
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        reader = Answering()
        with closing(there):
            transport = await plain(here, reader)
            there.settimeout(60)
            there.sendall(b"?")
            expected = b"".join(b"%d " % number for number in range(3000)) + BULK[:100_000] + b"end"

            def take() -> bytes:
                received = bytearray()
                while len(received) < len(expected) and (data := there.recv(1 << 16)):
                    received += data
                return bytes(received)

            assert await asyncio.to_thread(take) == expected
            transport.abort()
            await reader.until(reader.lost.is_set)

    asyncio.run(main())


def test_bytes_are_told_while_others_wait_to_be_sent() -> None:
    async def scenario(transport: asyncio.Transport, reader: Reader, peer: socket.socket) -> None:
        for _ in range(8):
            transport.write(BULK)
        await turns()
        peer.sendall(b"still here")
        await reader.until(lambda: bytes(reader.received) == b"still here")
        peer.shutdown(socket.SHUT_WR)
        await reader.until(lambda: reader.ended)

    run(scenario)
