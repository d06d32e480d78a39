"""HTTP requests to one server over connections that are kept: as much of HTTP/1.1 as a small request to AWS needs.

A login by token waits for one such request, and its CPU is the client's to pay: aiohttp's client takes three to four
times as much for it (about 230 µs, against 60). The parser is llhttp, Node's own, as httptools has it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools
from aiohappyeyeballs import AddrInfoType, start_connection

from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.net.transport import over_tls, plain

MAX_HEAD = 32_768
"""Bytes that an answer may have besides its body: its head, those of interim answers, the lengths of chunks."""

_NEXT_ADDRESS = 0.25
"""Seconds until another address is tried beside one that does not answer: RFC 8305's recommendation."""


class HttpError(ConnectionError):
    """There was no answer, or none that is HTTP. The text has nothing of the request or the answer in it."""


class _UnansweredError(HttpError):
    """The connection ended before the first byte of the answer."""


class AnswerTooLongError(Exception):
    """The answer's body has more bytes than it may have."""


class HttpClient:
    """A client of one server. Used within one event loop; `close` in the end.

    There are as many connections as requests at a time, which are for the caller to limit. Redirects
    are not followed, packed answers not unpacked, and an answer must say how long it is: where only the connection's
    end would tell, nobody could say whether it is complete.

    Parameters
    - `url`: `https://HOST`, `http://HOST`, each with a port or without one.
    - `tls`: verifies an https server.
    - `longest`: bytes of an answer's body. `keep`: seconds that an unused connection is kept.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext, longest: int, keep: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = tls if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls is not None else 80)
        self._longest = longest
        self._keep = keep
        self._resolver = Resolver()
        # The one that was used last stands last, and is used next: what a burst has opened is not kept busy for ever.
        self._kept: deque[_Connection] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def request(self, head: bytes, within: float) -> tuple[int, bytes]:
        """Send a request without a body, which may be sent twice, and wait for the answer.

        Parameters: `head`, all of it, up to and including the empty line; `within`, seconds for all of it.
        Returns: the status and the body.
        Raises: OSError, of which HttpError is one, and TimeoutError; AnswerTooLongError.
        """
        deadline = asyncio.get_running_loop().time() + within
        kept = self._take()
        if kept is not None:
            try:
                return await self._ask(kept, head, deadline)
            except _UnansweredError:
                # A server may close a kept connection at any time, and cannot know that a request is on its way.
                pass
        async with asyncio.timeout_at(deadline):
            connection = await self._connect()
        return await self._ask(connection, head, deadline)

    async def _ask(self, connection: _Connection, head: bytes, deadline: float) -> tuple[int, bytes]:
        try:
            answer = await connection.ask(head, deadline)
        except BaseException:
            # What is still to come would be taken for the next request's answer.
            connection.transport.abort()
            raise
        if connection.may_be_kept:
            self._put_back(connection)
        else:
            connection.transport.close()
        return answer

    async def _connect(self) -> _Connection:
        addresses = await self._resolver.addresses(self._host)
        places: list[AddrInfoType] = [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                (address, self._port),
            )
            for address in addresses
        ]
        connected = await start_connection(places, happy_eyeballs_delay=_NEXT_ADDRESS)
        # A request with a long token is more than one segment: the last one must not wait for the others' receipt.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self._longest)
        if self._tls is None:
            await plain(connected, connection)
        else:
            await over_tls(connected, connection, self._tls, server_side=False, server_hostname=self._host)
        return connection

    def _take(self) -> _Connection | None:
        while self._kept:
            connection = self._kept.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def _put_back(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.kept_until = loop.time() + self._keep
        self._kept.append(connection)
        if self._timer is None:
            self._timer = loop.call_at(connection.kept_until, self._close_unused)

    def _close_unused(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._kept and self._kept[0].kept_until <= loop.time():
            self._kept.popleft().transport.close()
        if self._kept:
            self._timer = loop.call_at(self._kept[0].kept_until, self._close_unused)

    async def close(self) -> None:
        """Close the connections that are kept. There must be no requests any more."""
        if self._timer is not None:
            self._timer.cancel()
        while self._kept:
            self._kept.pop().transport.abort()
        await self._resolver.close()


class _Connection(asyncio.Protocol):
    """One connection: a request at a time. Parameters: `longest`, bytes of an answer's body.

    `kept_until`, on the event loop's clock, is its owner's.
    """

    def __init__(self, longest: int) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.kept_until = 0.0
        self._longest = longest
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = 0
        self._body = b""
        self._complete = False
        self._stays = False

    async def ask(self, head: bytes, deadline: float) -> tuple[int, bytes]:
        """Send a request and wait for the answer, until `deadline`, on the event loop's clock.

        Raises: as HttpClient's `request`.
        """
        self._received = 0
        self._body = b""
        self._complete = False
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        # A third of what asyncio.timeout costs.
        timer = loop.call_at(deadline, self._give_up)
        try:
            self.transport.write(head)
            return await self._answer
        finally:
            timer.cancel()

    @property
    def may_be_kept(self) -> bool:
        """Whether there may be another request, after a complete answer."""
        return self._stays and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        answer = self._answer
        if answer is None or answer.done():
            # Nobody has asked: whatever it is, it must not be the answer to the next request.
            self.transport.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            answer.set_exception(HttpError("the answer is not HTTP as it should be"))
            return
        if len(self._body) > self._longest:
            answer.set_exception(AnswerTooLongError(f"the answer has more than {self._longest} bytes"))
        elif self._received > self._longest + MAX_HEAD:
            answer.set_exception(HttpError("the answer's head has no end"))
        elif self._complete:
            answer.set_result((self._parser.get_status_code(), self._body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        if self._answer is None or self._answer.done():
            return
        if self._received == 0:
            self._answer.set_exception(_UnansweredError("the connection was closed without an answer"))
        else:
            self._answer.set_exception(HttpError("the connection was closed before the answer's end"))

    def _give_up(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())

    # Called by the parser

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._complete:
            raise HttpError("there is more than one answer")

    def on_body(self, body: bytes) -> None:
        """A part of an answer's body has come."""
        if len(self._body) <= self._longest:
            self._body += body

    def on_message_complete(self) -> None:
        """An answer has ended; those with 1xx are only about another that follows."""
        self._complete = self._parser.get_status_code() >= 200
        # Known to the parser only here, before it looks out for the next answer.
        self._stays = self._parser.should_keep_alive()
