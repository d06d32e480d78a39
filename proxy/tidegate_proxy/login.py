"""From an accepted socket to a client connection in its pool: TLS, first packet, authentication, greeting."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import secrets
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING

from tidegate_proxy import __version__, events
from tidegate_proxy.certificates.clients import check_client_certificate
from tidegate_proxy.console import console
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.session import Session
from tidegate_proxy.errors import (
    AuthenticationError,
    ClientProtocolError,
    LimitError,
    ProxyError,
    ShutdownError,
)
from tidegate_proxy.net.accept import open_stream, read_first_packet
from tidegate_proxy.net.listen import peer_uid
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.login_client import greeting
from tidegate_proxy.protocol.startup import CancelRequest, StartupMessage

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)


async def login(proxy: Proxy, connection: socket.socket, source: str, refusal: LimitError | None = None) -> None:
    """Serve one accepted connection until it is logged in, or gone.

    Parameters: `connection`, non-blocking; `source`, where it comes from, as `source_of` has it; `refusal`, there are
    too many clients already: say so and close.
    """
    stream: Stream | None = None
    try:
        async with asyncio.timeout(proxy.settings.client_login_timeout) as deadline:
            uid = peer_uid(connection)
            tls = proxy.tls if uid is None else None
            stream = await open_stream(connection, tls, proxy.settings.client_login_timeout)
            stream.source = source
            stream.peer_uid = uid
            await _login(proxy, stream, deadline, refusal)
    except ProxyError as error:
        # Malformed packets and wrong passwords are what the internet sends all day.
        logger.log(
            logging.WARNING if isinstance(error, AuthenticationError) else logging.INFO,
            "login failed: %s",
            error,
            extra=_about(stream, "login_failed", sqlstate=error.sqlstate),
        )
        if error.sqlstate.startswith("28"):
            proxy.counts.refused += 1
        else:
            proxy.counts.failed += 1
        _refuse(stream, error)
    except TimeoutError:
        proxy.counts.failed += 1
        logger.info(
            "login failed: not logged in within client_login_timeout",
            extra=_about(stream, "login_failed", sqlstate="57014"),
        )
        _refuse(stream, ProxyError("canceling authentication due to timeout", sqlstate="57014"))
    except (ConnectionError, ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError):
            proxy.counts.refused += 1
        else:
            proxy.counts.failed += 1
        logger.debug("login given up: %s", error)
        if stream is not None:
            stream.transport.abort()
    except asyncio.CancelledError:
        _refuse(stream, ShutdownError())
        raise
    except Exception:
        logger.exception("login failed by a fault of the proxy")
        _refuse(stream, ProxyError())


def _about(stream: Stream | None, event: str, **more: object) -> dict[str, object]:
    return events.of_login(event, stream.startup if stream else None, stream.transport if stream else None, **more)


def _refuse(stream: Stream | None, error: ProxyError) -> None:
    if stream is not None and stream.transport is not None and not stream.lost:
        stream.write(encode.error_response(error, fatal=True))
        stream.transport.close()


async def _login(proxy: Proxy, stream: Stream, deadline: asyncio.Timeout, refusal: LimitError | None) -> None:
    tls = proxy.tls if stream.peer_uid is None else None
    packet = await read_first_packet(stream, tls, proxy.settings.client_login_timeout)
    if isinstance(packet, CancelRequest):
        await proxy.cancel(packet.pid, packet.key)
        stream.transport.close()
        return
    if refusal is not None:
        raise refusal
    stream.startup = packet
    await _start_session(proxy, stream, deadline, packet)


async def _start_session(proxy: Proxy, stream: Stream, deadline: asyncio.Timeout, packet: StartupMessage) -> None:
    settings = proxy.settings
    local = stream.peer_uid is not None
    if settings.client_tls == "require" and not (stream.secure or local):
        raise AuthenticationError(
            "SSL connection is required", sqlstate="28000", hint='Connect with "sslmode=require" or stricter.'
        )
    if not local:
        check_client_certificate(settings, stream.transport.get_extra_info("ssl_object"), packet.user)
    if packet.replication:
        raise ClientProtocolError(
            "replication connections are not supported through the proxy",
            sqlstate="0A000",
            hint="Connect to the PostgreSQL server directly.",
        )
    if (packet.major, packet.minor) > (3, 0) or packet.unsupported_protocol_options:
        stream.write(encode.negotiate_protocol_version(packet.unsupported_protocol_options))
    shown = None
    if local and _is_owner(stream, packet):
        _start_console(proxy, stream, packet)
        return
    if local and settings.unix_socket_auth == "peer":
        _check_peer(proxy, stream, packet.user)
    elif proxy.iam is not None and proxy.iam.takes(packet.user):
        by_token = partial(
            proxy.iam.authenticate,
            stream,
            packet.user,
            packet.database,
            settings.database(packet.database),
            partial(proxy.pool, packet.database, packet.user),
            deadline.when() or 0.0,
        )
        await proxy.logins.counted(stream, packet.user, by_token)
    else:
        shown = await proxy.logins.authenticate(stream, packet.user, packet.database)
    if packet.database == console.DATABASE and console.DATABASE not in settings.databases:
        _start_console(proxy, stream, packet)
        return
    proxy.control.admit(packet.database)
    proxy.take_place(packet.database, packet.user)
    pool = proxy.pool(packet.database, packet.user)
    if shown is not None:
        proxy.credentials.learn(packet.database, packet.user, shown)
    # From here on the client waits for us: `connection_borrow_timeout` ends that, with an error that says why.
    deadline.reschedule(
        asyncio.get_running_loop().time() + pool.limits.connection_borrow_timeout + settings.server_connect_timeout
    )
    session = {name.lower(): value for name, value in (packet.options | packet.parameters).items()}
    session, told = await pool.begin_session(session)
    parameters = dict(told)
    if stream.lost:
        raise ConnectionResetError("the connection was closed")
    parameters[b"tidegate.version"] = __version__.encode()
    mode = settings.pool_mode_of(packet.database, packet.user)
    parameters[b"tidegate.pool_mode"] = mode.encode()
    pid, key = proxy.new_cancel_key()
    client = ClientConnection(
        pool,
        pid,
        key,
        Session(session, always_ask=settings.session_check == "always" and mode != "session"),
        told,
        pool.counts.statistics(secure=stream.secure),
        keeps_server=mode == "session",
        single_statements=mode == "statement",
    )
    proxy.add_client(client)
    stream.write(greeting(parameters, pid, key))
    stream.hand_over(client)
    if settings.log_connections:
        logger.info("%s: client %d has logged in", pool.name, pid, extra=events.of_client("connected", pool, client))


def _is_owner(stream: Stream, packet: StartupMessage) -> bool:
    """Whether whoever runs the proxy wants to use its console, over a Unix socket."""
    return stream.peer_uid == os.geteuid() and packet.user == packet.database == console.DATABASE


def _check_peer(proxy: Proxy, stream: Stream, user: str) -> None:
    """Raises: AuthenticationError unless the operating system's user has the same name."""
    try:
        name = pwd.getpwuid(stream.peer_uid or 0).pw_name
    except KeyError:
        name = None
    if name != user or user not in proxy.settings.users:
        raise AuthenticationError(f'Peer authentication failed for user "{user}"', sqlstate="28000")


def _start_console(proxy: Proxy, stream: Stream, packet: StartupMessage) -> None:
    may_change = packet.user in proxy.settings.admin_users or _is_owner(stream, packet)
    if not may_change and packet.user not in proxy.settings.stats_users:
        raise AuthenticationError(
            f'user "{packet.user}" may not use the admin console',
            sqlstate="42501",
            hint='Name the user in "admin_users" or "stats_users".',
        )
    pid, key = random_cancel_key()
    stream.write(greeting(console.PARAMETERS, pid, key))
    name = packet.parameters.get("application_name", "")
    stream.hand_over(console.Console(proxy, packet.user, may_change=may_change, application_name=name))


def random_cancel_key() -> tuple[int, bytes]:
    """A process id that looks like one, and four unguessable bytes."""
    random = secrets.token_bytes(8)
    return int.from_bytes(random[:4], "big") % (2**31 - 1) + 1, random[4:]
