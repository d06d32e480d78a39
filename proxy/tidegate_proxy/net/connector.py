"""Opening connections to target servers: sessions, and the short ones that carry a CancelRequest."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import ssl
from collections.abc import Callable, Mapping

from tidegate_proxy.core.owners import ServerOwner
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.credentials.provider import Credential, CredentialProvider, is_refusal
from tidegate_proxy.errors import (
    ProxyError,
    ServerProtocolError,
    TargetTLSError,
    TargetUnavailableError,
    TargetUnreachableError,
)
from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.net.transport import connect, plain, start_tls
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.login_server import Welcome, login_server
from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, is_loopback
from tidegate_proxy.targets.endpoint import Endpoint, Place
from tidegate_proxy.tls import tls_server_end_point

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT = 5.0
"""Seconds that a CancelRequest may take; after that it is given up."""


class Connector:
    """How to log in to one database as one user, on whichever of its servers.

    Parameters
    - `database`: its name there, and what else it says about connections.
    - `tls`: gives the context for its `tls` mode, None to do without; asked for each connection, since certificates
      change.
    - `credentials`: what to log in with, asked anew for each session.
    - `resolver`: finds addresses. `timeout`: seconds for connecting and logging in, once there are credentials.
    - `user_timeout`: seconds after which a connection ends whose server acknowledges nothing any more; 0 is never.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        *,
        tls: Callable[[], ssl.SSLContext | None],
        credentials: CredentialProvider,
        resolver: Resolver,
        timeout: float,
        user_timeout: float,
    ) -> None:
        self._database = database
        self._tls = tls
        self.credentials = credentials
        self._resolver = resolver
        self._timeout = timeout
        self._user_timeout = user_timeout

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self._database.tls != "disable"

    def using(self, credentials: CredentialProvider) -> Connector:
        """The same with other credentials."""
        other = copy.copy(self)
        other.credentials = credentials
        return other

    async def connect(self, owner: ServerOwner, place: Place) -> tuple[ServerConnection, Welcome]:
        """Open a session for clients. Raises: see `log_in`."""
        stream, welcome = await self.log_in(place, self._timeout, {})
        server = ServerConnection(owner, welcome.pid, welcome.key, asyncio.get_running_loop().time())
        stream.hand_over(server)
        return server, welcome

    async def log_in(self, place: Place, within: float, parameters: Mapping[str, str]) -> tuple[Stream, Welcome]:
        """Open a session.

        Parameters: `within` so many seconds; `parameters`, for the StartupMessage.
        Raises: TargetUnreachableError when nothing answers there; TargetUnavailableError when it does not go on;
        TargetTLSError when it can't be trusted; TargetRefusedError with its own words; AuthenticationError,
        ServerProtocolError.
        """
        refusal: ProxyError | None = None
        attempts = self.credentials.attempts(place.endpoint.host, place.endpoint.port)
        async with contextlib.aclosing(attempts):
            async for credential in attempts:
                try:
                    stream, welcome = await self._try(credential, place, min(within, self._timeout), parameters)
                except ProxyError as error:
                    if not is_refusal(error):
                        raise
                    refusal = error
                else:
                    self.credentials.accepted(credential)
                    return stream, welcome
        refusal = refusal or ProxyError("there is nothing to log in to the target server with", sqlstate="28000")
        self.credentials.refused(refusal)
        raise refusal

    async def _try(
        self, credential: Credential, place: Place, within: float, parameters: Mapping[str, str]
    ) -> tuple[Stream, Welcome]:
        try:
            async with asyncio.timeout(within):
                stream = await self._open(place, within)
                try:
                    return stream, await login_server(
                        stream,
                        user=credential.user,
                        database=self._database.dbname or "",
                        password=credential.password,
                        parameters=parameters,
                        # Somebody on the way could ask for it too.
                        allow_cleartext=is_loopback(place.endpoint.host),
                    )
                except BaseException:
                    stream.transport.abort()
                    raise
        except TimeoutError as error:
            raise _unreachable(place, f"no answer within {within:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise TargetTLSError(
                f"the certificate of {place.endpoint} is not trusted: {error.verify_message.rstrip('.')}"
            ) from error
        except ssl.SSLError as error:
            raise TargetUnavailableError(
                f"could not connect to {place.endpoint}: TLS failed: {error.reason or error}"
            ) from error
        except OSError as error:
            raise TargetUnavailableError(f"could not connect to {place.endpoint}: {_words(error)}") from error

    async def cancel(self, server: ServerConnection, place: Place) -> None:
        """Ask the server to cancel what it runs; returns when it has passed the signal on, or the request failed.

        Parameters: `place`, what the connection was opened to.
        """
        server.cancels += 1
        sent = False
        # The name may have moved on to another server since.
        peer = server.transport.get_extra_info("peername")
        place = Place(place.endpoint, address=peer[0] if peer else place.address)
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT):
                stream = await self._open(place, CANCEL_TIMEOUT)
                try:
                    stream.write(encode.cancel_request(server.pid, server.key))
                    sent = True
                    # The server closes the connection once the signal is sent: from then on it can't hit anyone else.
                    await stream.read_exactly(1)
                finally:
                    stream.transport.abort()
        except ConnectionResetError:
            sent = False
        except (OSError, TimeoutError, ProxyError) as error:
            logger.warning("a cancel request to %s failed: %s", place.endpoint, error)
        finally:
            server.cancels -= 1
            # A request that is still on its way would hit whoever comes next.
            server.tainted = server.tainted or sent

    async def _open(self, place: Place, within: float) -> Stream:
        host, port = place.endpoint.host, place.endpoint.port
        try:
            addresses = [place.address] if place.address is not None else await self._resolver.addresses(host)
            connection = await connect(addresses, port, within=within, user_timeout=self._user_timeout)
        except TimeoutError as error:
            raise _unreachable(place, f"no answer within {within:g} s") from error
        except OSError as error:
            raise _unreachable(place, _words(error)) from error
        stream = Stream(ServerProtocolError)
        transport = await plain(connection, stream, goes_first=True)
        try:
            context = self._tls()
            if context is not None:
                await self._start_tls(stream, context, place.endpoint)
        except ConfigurationError as error:
            transport.abort()
            raise TargetTLSError(detail_log=str(error)) from None
        except BaseException:
            transport.abort()
            raise
        return stream

    async def _start_tls(self, stream: Stream, context: ssl.SSLContext, endpoint: Endpoint) -> None:
        stream.write(encode.ssl_request())
        answer = await stream.read_exactly(1)
        if answer == b"N" and self._database.tls == "prefer":
            return
        if answer == b"E":
            # It could not even begin a process for us, and says so without TLS: nobody's words that could be trusted.
            raise TargetUnavailableError(f"{endpoint} refused the connection before TLS was up")
        if answer != b"S":
            raise TargetTLSError(
                f"{endpoint} does not speak TLS",
                hint='Turn TLS on there, or set tls = "disable" for this database.',
            )
        if stream.pending:
            # Bytes from before TLS could be anybody's (CVE-2021-23222).
            raise ServerProtocolError(f"{endpoint} sent data before TLS was up")
        transport = await start_tls(stream.transport, stream, context, server_side=False, server_hostname=endpoint.host)
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate:
            try:
                stream.channel_binding = tls_server_end_point(certificate)
            except ValueError:
                stream.channel_binding = None


def _unreachable(place: Place, why: str) -> TargetUnreachableError:
    return TargetUnreachableError(f"could not connect to {place.endpoint}: {why}")


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


async def check_reachable(endpoint: Endpoint, resolver: Resolver, within: float) -> None:
    """See whether something accepts connections there, within so many seconds. Raises: TargetUnreachableError."""
    try:
        async with asyncio.timeout(within):
            addresses = await resolver.addresses(endpoint.host)
            connection = await connect(addresses, endpoint.port, within=within, user_timeout=0)
    except TimeoutError as error:
        raise TargetUnreachableError(f"{endpoint} does not answer within {within:g} s") from error
    except OSError as error:
        raise TargetUnreachableError(f"{endpoint} cannot be reached: {_words(error)}") from error
    connection.close()
