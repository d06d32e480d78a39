"""From a StartupMessage to a client connection in its pool: authentication, limits, greeting.

What need not wait is done in steps, right as the bytes come: a storm of cold clients is hundreds of logins at once, of
which a task each, with its futures and turns of the event loop, would be the larger part. What has to wait (a token's
judgement, a question to the database, the answer to a wrong password) goes on in a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
from functools import partial
from typing import TYPE_CHECKING, Any

from tidegate_proxy import __version__, events
from tidegate_proxy.arrival import Arrival
from tidegate_proxy.certificates.clients import check_client_certificate
from tidegate_proxy.console import console
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.core.session import Session
from tidegate_proxy.errors import (
    AuthenticationError,
    ClientProtocolError,
)
from tidegate_proxy.identity.iam.questions import Client
from tidegate_proxy.identity.verifiers import Found
from tidegate_proxy.net.transport import Receiver
from tidegate_proxy.pool.known_sessions import KnownSession
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.login_client import ScramLogin, greeting, key_and_ready, read_password, welcome
from tidegate_proxy.protocol.scram import ScramKeys
from tidegate_proxy.protocol.startup import StartupMessage

if TYPE_CHECKING:
    from tidegate_proxy.identity.iam.authenticator import IamAuthenticator

logger = logging.getLogger(__name__)


class Login(Arrival):
    """One accepted connection until it is logged in, or gone. Parameters: as of Arrival."""

    __slots__ = ("_asked", "_found", "_iam", "_is_limited", "_pool", "_scram", "_session", "_shown", "_token")

    # What the client has shown, by which a server may let the proxy in.
    _shown: str | ScramKeys | None
    # Each from the step on that finds it; the session may have to be asked for.
    _found: Found
    _iam: IamAuthenticator
    _token: bytes
    _asked: asyncio.Future[Any]
    # Whether it had to fail, when that was last looked up, because too many have before it.
    _is_limited: bool
    _scram: ScramLogin
    _pool: Pool
    _session: KnownSession | None

    # Who it is

    def _begin_session(self, packet: StartupMessage) -> None:
        self._shown = None
        proxy, settings = self._proxy, self._proxy.settings
        local = self.peer_uid is not None
        if settings.client_tls == "require" and not (local or self.secure):
            raise AuthenticationError(
                "SSL connection is required", sqlstate="28000", hint='Connect with "sslmode=require" or stricter.'
            )
        if not local:
            check_client_certificate(settings, self.transport.get_extra_info("ssl_object"), packet.user)
        if packet.replication:
            raise ClientProtocolError(
                "replication connections are not supported through the proxy",
                sqlstate="0A000",
                hint="Connect to the PostgreSQL server directly.",
            )
        if (packet.major, packet.minor) > (3, 0) or packet.unsupported_protocol_options:
            self.write(encode.negotiate_protocol_version(packet.unsupported_protocol_options))
        self._step = Login._enter
        if local and self._is_owner(packet):
            self._start_console(packet)
        elif local and settings.unix_socket_auth == "peer":
            self._check_peer(packet.user)
        elif proxy.iam is not None and proxy.iam.takes(packet.user):
            self._ask_for_token(proxy.iam)
        elif (found := proxy.logins.find(packet.user, packet.database)) is not None:
            self._found = found
            self._scram = ScramLogin(packet.user, (*found.verifiers, found.mock)[0], self.channel_binding)
            self.write(self._scram.offer)
            self._step = Login._read_scram
        else:
            self._wait_for(self._authenticate(packet))

    def _is_owner(self, packet: StartupMessage) -> bool:
        """Whether whoever runs the proxy wants to use its console, over a Unix socket."""
        return self.peer_uid == os.geteuid() and packet.user == packet.database == console.DATABASE

    def _check_peer(self, user: str) -> None:
        """Raises: AuthenticationError unless the operating system's user has the same name."""
        try:
            name = pwd.getpwuid(self.peer_uid or 0).pw_name
        except KeyError:
            name = None
        if name != user or user not in self._proxy.settings.users:
            raise AuthenticationError(f'Peer authentication failed for user "{user}"', sqlstate="28000")

    def _read_scram(self) -> bool:
        message = self.take_message(wire.MAX_SASL_MESSAGE)
        if message is None:
            return False
        assert self.startup is not None
        user, scram, logins = self.startup.user, self._scram, self._proxy.logins
        try:
            if not scram.challenged:
                self.write(scram.challenge(*message))
                return True
            scram.exchange.read_proof(scram.proof(*message))
        except AuthenticationError:
            logins.failed(self, user, "refused")
            raise
        answer = logins.judge(self, user, self._found, scram.exchange)
        self._step = Login._enter
        if answer is None:
            self._wait_for(self._refuse_proof(self.startup))
        else:
            self._proven(answer)
        return True

    async def _refuse_proof(self, packet: StartupMessage) -> None:
        exchange = self._scram.exchange
        self._proven(await self._proxy.logins.refuse(self, packet.user, packet.database, exchange))

    def _proven(self, answer: bytes) -> None:
        # Together with the greeting, if that need not wait.
        self._unsent = encode.authentication_sasl_final(answer)
        self._shown = self._scram.exchange.keys

    async def _authenticate(self, packet: StartupMessage) -> None:
        self._shown = await self._proxy.logins.authenticate(self, packet.user, packet.database)

    def _ask_for_token(self, iam: IamAuthenticator) -> None:
        self._is_limited = False
        try:
            iam.need_tls(self)
        except AuthenticationError:
            self._refuse_token()
            raise
        self._iam = iam
        self.write(encode.authentication_cleartext())
        self._step = Login._read_token

    def _read_token(self) -> bool:
        answer = self.take_message(wire.MAX_PASSWORD_MESSAGE)
        if answer is None:
            return False
        assert self.startup is not None
        proxy, user, database = self._proxy, self.startup.user, self.startup.database
        try:
            self._token = read_password(*answer)
            self._asked = self._iam.ask(
                self._token,
                user,
                database,
                proxy.settings.database(database),
                partial(proxy.pool, database, user),
                Client(self.source, self._must_fail, lambda: self.lost),
                self._timer.when(),
            )
        except AuthenticationError:
            self._refuse_token()
            raise
        self._step = Login._take_judgement
        self._wait_until_done(self._asked)
        return True

    def _take_judgement(self) -> bool:
        assert self.startup is not None
        try:
            self._iam.decide(self._asked, self._token, self.startup.user)
        except AuthenticationError:
            self._refuse_token()
            raise
        self._proxy.logins.succeeded += 1
        self._step = Login._enter
        return True

    def _must_fail(self) -> bool:
        assert self.startup is not None
        self._is_limited = self._proxy.logins.limited(self, self.startup.user)
        return self._is_limited

    def _refuse_token(self) -> None:
        assert self.startup is not None
        self._proxy.logins.failed(self, self.startup.user, "limit" if self._is_limited else "token")

    # What it gets

    def _enter(self) -> bool:
        """The client is who it says: let it into its pool, or to the console."""
        proxy, packet = self._proxy, self.startup
        assert packet is not None
        if packet.database == console.DATABASE and console.DATABASE not in proxy.settings.databases:
            self._start_console(packet)
            return True
        proxy.control.admit(packet.database)
        proxy.take_place(self.place, packet.database, packet.user)
        self._pool = pool = proxy.pool(packet.database, packet.user)
        if self._shown is not None:
            proxy.credentials.learn(packet.database, packet.user, self._shown)
        self._session = pool.known_session(packet.session)
        self._step = Login._greet
        if self._session is None:
            # From here on the client waits for us: `connection_borrow_timeout` ends that, with an error that says why.
            self._timer.cancel()
            within = pool.limits.connection_borrow_timeout + proxy.settings.server_connect_timeout
            self._timer = self._loop.call_later(within, self._time_is_up)
            self._wait_for(self._ask_for_session(pool, packet))
        return True

    async def _ask_for_session(self, pool: Pool, packet: StartupMessage) -> None:
        self._session = await pool.begin_session(packet.session)

    def _greet(self) -> bool:
        proxy, packet, pool, session = self._proxy, self.startup, self._pool, self._session
        assert packet is not None
        assert session is not None
        if self.lost:
            return False  # which ends it
        mode = proxy.settings.pool_mode_of(packet.database, packet.user)
        pid, key = proxy.new_cancel_key()
        client = ClientConnection(
            pool,
            pid,
            key,
            Session(session.parameters, always_ask=proxy.settings.session_check == "always" and mode != "session"),
            session.told,
            pool.counts.statistics(secure=self.secure),
            keeps_server=mode == "session",
            single_statements=mode == "statement",
        )
        proxy.add_client(client, self.place)
        self.became_client = True
        self.write(_welcome(session, mode) + key_and_ready(pid, key))
        self._leave_to(client)
        if proxy.settings.log_connections:
            logger.info(
                "%s: client %d has logged in", pool.name, pid, extra=events.of_client("connected", pool, client)
            )
        return False

    def _start_console(self, packet: StartupMessage) -> None:
        proxy = self._proxy
        may_change = packet.user in proxy.settings.admin_users or self._is_owner(packet)
        if not may_change and packet.user not in proxy.settings.stats_users:
            raise AuthenticationError(
                f'user "{packet.user}" may not use the admin console',
                sqlstate="42501",
                hint='Name the user in "admin_users" or "stats_users".',
            )
        self.write(greeting(console.PARAMETERS, *random_cancel_key()))
        name = packet.parameters.get("application_name", "")
        self._leave_to(console.Console(proxy, packet.user, may_change=may_change, application_name=name))

    def _leave_to(self, protocol: Receiver) -> None:
        self.hand_over(protocol)
        self._end()


def _welcome(session: KnownSession, mode: str) -> bytes:
    known = session.welcomes.get(mode)
    if known is None:
        own = {b"tidegate.version": __version__.encode(), b"tidegate.pool_mode": mode.encode()}
        known = session.welcomes[mode] = welcome(session.told | own)
    return known


def random_cancel_key() -> tuple[int, bytes]:
    """A process id that looks like one, and four unguessable bytes."""
    random = os.urandom(8)
    return int.from_bytes(random[:4], "big") % (2**31 - 1) + 1, random[4:]
