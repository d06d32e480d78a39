"""What a client does first, whatever it wants: TLS or not, a session or a CancelRequest."""

from __future__ import annotations

import abc
import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from tidegate_proxy import events
from tidegate_proxy.core import COMPILED
from tidegate_proxy.errors import AuthenticationError, ClientProtocolError, LimitError, ProxyError, ShutdownError
from tidegate_proxy.headcount import Place
from tidegate_proxy.net.accept import TLS_HANDSHAKE, open_stream
from tidegate_proxy.net.steps import SteppedStream
from tidegate_proxy.net.transport import directly, directly_over_tls, start_tls
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage, parse_startup
from tidegate_proxy.tls import ALPN, ServerTLS

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)

_FIRST_PACKETS = 3
"""GSSAPI, then TLS, then the session is the longest way that a client may take."""


class Arrival(SteppedStream):
    """One accepted connection; `begin` it.

    Parameters: `loop`, the proxy's; `connection`, non-blocking; `place`, what it takes; `peer_uid`, of the process at
    the other end of a Unix socket; `refusal`, there are too many clients already: say so and close.
    """

    __slots__ = ("_connection", "_handshake", "_packets", "_proxy", "_refusal", "_tls", "became_client", "place")

    def __init__(
        self,
        proxy: Proxy,
        loop: asyncio.AbstractEventLoop,
        connection: socket.socket,
        place: Place,
        peer_uid: int | None,
        refusal: LimitError | None,
    ) -> None:
        super().__init__(ClientProtocolError, loop, Arrival._read_first_packet, proxy.settings.client_login_timeout)
        self.place = place
        # Then the place is the client's.
        self.became_client = False
        self.source = place.source
        self.peer_uid = peer_uid
        self._proxy = proxy
        self._connection = connection
        self._refusal = refusal
        self._tls: ServerTLS | None = proxy.tls if peer_uid is None else None
        # The TLS transport whose handshake is under way, if it is not a task's.
        self._handshake: asyncio.Transport | None = None
        self._packets = 0

    @abc.abstractmethod
    def _begin_session(self, packet: StartupMessage) -> None:
        """The client wants a session: go on with that."""

    def begin(self) -> None:
        """Begin, with whatever comes."""
        if not COMPILED:
            self._wait_for(open_stream(self._connection, self, self._tls, self._proxy.settings.client_login_timeout))
            return
        try:
            directly(self._loop, self._connection, self)
        except OSError as error:
            self._fail(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport, and again once TLS is up."""
        super().connection_made(transport)
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if secured is None:
            return
        assert self._tls is not None
        self._handshake = None
        self.channel_binding = self._tls.channel_binding
        if self._packets == 0 and secured.selected_alpn_protocol() != ALPN:
            self._refuse_without_alpn()
        elif self._task is None:
            self._go_on()

    def _end(self) -> None:
        super()._end()
        self._proxy.login_ended(self)

    # How it fails

    def _failed(self, error: BaseException) -> None:
        counts = self._proxy.counts
        if isinstance(error, ProxyError):
            # Malformed packets and wrong passwords are what the internet sends all day.
            logger.log(
                logging.WARNING if isinstance(error, AuthenticationError) else logging.INFO,
                "login failed: %s",
                error,
                extra=self._about(error.sqlstate),
            )
            if error.sqlstate.startswith("28"):
                counts.refused += 1
            else:
                counts.failed += 1
            self._refuse(error)
        elif isinstance(error, TimeoutError):
            counts.failed += 1
            logger.info("login failed: not logged in within client_login_timeout", extra=self._about("57014"))
            self._refuse(ProxyError("canceling authentication due to timeout", sqlstate="57014"))
        elif isinstance(error, OSError):
            if isinstance(error, ssl.SSLError):
                counts.refused += 1
            else:
                counts.failed += 1
            logger.debug("login given up: %s", error)
            self._abort()
        elif isinstance(error, asyncio.CancelledError):
            self._refuse(ShutdownError())
        else:
            logger.error("login failed by a fault of the proxy", exc_info=error)
            self._refuse(ProxyError())
        self._end()

    def _about(self, sqlstate: str) -> dict[str, object]:
        return events.of_login("login_failed", self.startup, self.transport, sqlstate=sqlstate)

    def _refuse(self, error: ProxyError) -> None:
        # Whether who has said nothing yet would understand it, nobody knows; and in a handshake nobody would.
        silent = self._packets == 0 and not self.pending and not (self.transport and self.secure)
        if silent or self._handshake is not None:
            self._abort()
        elif not self.transport.is_closing():
            self.write(encode.error_response(error, fatal=True))
            self.transport.close()

    def _refuse_without_alpn(self) -> None:
        # Else a browser, or another protocol's client that was lured here, could be made to talk to us.
        self._proxy.counts.failed += 1
        logger.debug("login given up: direct TLS without ALPN")
        self._refuse(
            ClientProtocolError("received direct SSL connection request without ALPN protocol negotiation extension")
        )
        self._end()

    def _abort(self) -> None:
        transport = self._handshake or self.transport
        if transport:
            transport.abort()
        else:
            self._connection.close()

    # TLS and the first packet

    def _read_first_packet(self) -> bool:
        if self._packets == 0 and self._tls_comes_first():
            return False
        if self._packets == _FIRST_PACKETS:
            raise ClientProtocolError("a session or a cancel request was expected")
        body = self.take_startup()
        if body is None:
            return False
        self._packets += 1
        packet = parse_startup(body)
        if isinstance(packet, StartupMessage):
            if self._refusal is not None:
                raise self._refusal
            self.startup = packet
            self._begin_session(packet)
        elif isinstance(packet, CancelRequest):
            self._wait_for(self._cancel(packet))
        elif isinstance(packet, GSSENCRequest) or self._tls is None or self.secure:
            self.write(b"N")
        elif isinstance(packet, SSLRequest) and COMPILED:
            self._say_yes_to_tls()
            self._start_tls(self._tls)
        elif isinstance(packet, SSLRequest):
            self._wait_for(self._start_tls_in_task(self._tls))
        return True

    def _tls_comes_first(self) -> bool:
        """Whether the client begins with TLS at once, which goes on by itself then."""
        if not self.pending or self._buffer[0] != TLS_HANDSHAKE or self.secure:
            return False
        if self._tls is None:
            raise ConnectionAbortedError("a TLS handshake, but TLS is off")
        self._start_tls(self._tls)
        return True

    def _say_yes_to_tls(self) -> None:
        if self.pending:
            # Bytes from before TLS could be anybody's (CVE-2021-23214).
            raise ClientProtocolError("received unencrypted data after SSL request")
        self.write(b"S")

    def _start_tls(self, tls: ServerTLS) -> None:
        if self.transport.is_closing():
            return
        received, self._buffer = self._buffer, b""
        secured = directly_over_tls(self._loop, self.transport, self, tls.context, received)
        self._handshake = secured
        secured.handshake.add_done_callback(self._handshake_ended)

    async def _start_tls_in_task(self, tls: ServerTLS) -> None:
        self._say_yes_to_tls()
        within = self._proxy.settings.client_login_timeout
        await start_tls(self.transport, self, tls.context, server_side=True, handshake_timeout=within)

    def _handshake_ended(self, handshake: asyncio.Future[None]) -> None:
        error = handshake.exception()
        if error is not None:
            self._fail(error)

    async def _cancel(self, packet: CancelRequest) -> None:
        await self._proxy.cancel(packet.pid, packet.key)
        self.transport.close()
        self._end()
