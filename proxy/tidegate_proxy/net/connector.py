"""Opening connections to one target server: sessions, and the short ones that carry a CancelRequest."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import ssl
from collections.abc import Callable

from tidegate_proxy.core.server import ServerConnection, ServerOwner
from tidegate_proxy.credentials.provider import Credential, CredentialProvider, is_refusal
from tidegate_proxy.errors import ProxyError, ServerProtocolError, TargetTLSError, TargetUnavailableError
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.net.transport import connect, plain, start_tls
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.login_server import Welcome, login_server
from tidegate_proxy.settings import DatabaseSettings, is_loopback
from tidegate_proxy.tls import tls_server_end_point

logger = logging.getLogger(__name__)

CANCEL_TIMEOUT = 5.0
"""Seconds that a CancelRequest may take; after that it is given up."""


class Connector:
    """How to reach and log in to one database as one user.

    Parameters
    - `database`: where it is. `tls`: gives the context for its `tls` mode, None to do without;
      asked for each connection, since certificates change.
    - `credentials`: what to log in with, asked anew for each session. `timeout`: seconds for connecting and logging in.
    """

    def __init__(
        self,
        database: DatabaseSettings,
        *,
        tls: Callable[[], ssl.SSLContext | None],
        credentials: CredentialProvider,
        timeout: float,
    ) -> None:
        self._database = database
        self._tls = tls
        self.credentials = credentials
        self._timeout = timeout

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self._tls is not None

    def using(self, credentials: CredentialProvider) -> Connector:
        """The same with other credentials."""
        other = copy.copy(self)
        other.credentials = credentials
        return other

    @property
    def target(self) -> str:
        """Where this connects to, for messages."""
        return f"{self._database.host}:{self._database.port}"

    async def connect(self, owner: ServerOwner) -> tuple[ServerConnection, Welcome]:
        """Open a session.

        Raises: TargetUnavailableError when the server can't be reached; TargetTLSError when it can't be trusted;
        TargetRefusedError with its own words; AuthenticationError, ServerProtocolError.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout):
                stream, welcome = await self._log_in()
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {self._timeout:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise TargetTLSError(
                f"the certificate of {self.target} is not trusted: {error.verify_message.rstrip('.')}"
            ) from error
        except ssl.SSLError as error:
            raise self._unavailable(f"TLS failed: {error.reason or error}") from error
        except OSError as error:
            raise self._unavailable(os.strerror(error.errno) if error.errno else str(error)) from error
        server = ServerConnection(owner, welcome.pid, welcome.key, loop.time())
        stream.hand_over(server)
        return server, welcome

    async def _log_in(self) -> tuple[Stream, Welcome]:
        refusal: ProxyError | None = None
        async with contextlib.aclosing(self.credentials.attempts(self._database.host, self._database.port)) as attempts:
            async for credential in attempts:
                try:
                    stream, welcome = await self._try(credential)
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

    async def _try(self, credential: Credential) -> tuple[Stream, Welcome]:
        stream = await self._open()
        try:
            return stream, await login_server(
                stream,
                user=credential.user,
                database=self._database.dbname or "",
                password=credential.password,
                parameters={},
                # Somebody on the way could ask for it too.
                allow_cleartext=is_loopback(self._database.host),
            )
        except BaseException:
            stream.transport.abort()
            raise

    async def cancel(self, server: ServerConnection) -> None:
        """Ask the server to cancel what it runs; returns when it has passed the signal on, or the request failed."""
        server.cancels += 1
        sent = False
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT):
                stream = await self._open()
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
            logger.warning("a cancel request to %s failed: %s", self.target, error)
        finally:
            server.cancels -= 1
            # A request that is still on its way would hit whoever comes next.
            server.tainted = server.tainted or sent

    async def _open(self) -> Stream:
        stream = Stream(ServerProtocolError)
        transport = await plain(await connect(self._database.host, self._database.port), stream, goes_first=True)
        try:
            context = self._tls()
            if context is not None:
                await self._start_tls(stream, context)
        except BaseException:
            transport.abort()
            raise
        return stream

    async def _start_tls(self, stream: Stream, context: ssl.SSLContext) -> None:
        stream.write(encode.ssl_request())
        answer = await stream.read_exactly(1)
        if answer == b"N" and self._database.tls == "prefer":
            return
        if answer != b"S":
            raise TargetTLSError(
                f"{self.target} does not speak TLS",
                hint='Turn TLS on there, or set tls = "disable" for this database.',
            )
        if stream.pending:
            # Bytes from before TLS could be anybody's (CVE-2021-23222).
            raise ServerProtocolError(f"{self.target} sent data before TLS was up")
        transport = await start_tls(
            stream.transport, stream, context, server_side=False, server_hostname=self._database.host
        )
        certificate = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate:
            try:
                stream.channel_binding = tls_server_end_point(certificate)
            except ValueError:
                stream.channel_binding = None

    def _unavailable(self, why: str) -> TargetUnavailableError:
        return TargetUnavailableError(f"could not connect to {self.target}: {why}")


async def check_reachable(host: str, port: int, within: float) -> None:
    """See whether something accepts connections there, within so many seconds. Raises: TargetUnavailableError."""
    try:
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as error:
        raise TargetUnavailableError(f"{host}:{port} does not answer within {within:g} s") from error
    except OSError as error:
        raise TargetUnavailableError(f"{host}:{port} cannot be reached: {error.strerror or error}") from error
    writer.transport.abort()
