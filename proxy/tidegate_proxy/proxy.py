"""The proxy as a whole: listens, keeps clients and pools, drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING

from tidegate_proxy import __version__, events
from tidegate_proxy.arrival import Arrival
from tidegate_proxy.certificates.keeper import CertificateKeeper
from tidegate_proxy.console.averages import Averages
from tidegate_proxy.console.console import Console
from tidegate_proxy.control import Control
from tidegate_proxy.core.client import ClientConnection
from tidegate_proxy.errors import LimitError
from tidegate_proxy.fleet.fleet import Fleet
from tidegate_proxy.fleet.name import process_id
from tidegate_proxy.headcount import Place, of_database, of_source, of_user
from tidegate_proxy.identity.login_limits import source_of
from tidegate_proxy.identity.verifiers import ClientVerifiers
from tidegate_proxy.idle_clients import IdleClients
from tidegate_proxy.login import Login, random_cancel_key
from tidegate_proxy.logins import Logins
from tidegate_proxy.metrics.monitor import Monitor
from tidegate_proxy.net.listen import BACKLOG, UnixListener, peer_uid, tcp_listeners
from tidegate_proxy.net.transport import hand_down
from tidegate_proxy.proxy_pools import ProxyPools
from tidegate_proxy.reload import Change
from tidegate_proxy.settings import ConfigurationError, Settings
from tidegate_proxy.settings.effective import shared_limits
from tidegate_proxy.settings.live import changed_settings
from tidegate_proxy.siblings import Siblings
from tidegate_proxy.targets.check import check_targets
from tidegate_proxy.tls import ServerTLS

if TYPE_CHECKING:
    from tidegate_proxy.workers import Team

logger = logging.getLogger(__name__)

_ACCEPTS_AT_ONCE = 64
_REFUSALS_AT_ONCE = 256
_SWEEP = 1.0
_LAST_LOGINS = 2.0
"""Seconds that clients have to log in who were connected when the proxy stopped listening."""

_IDLE = 600.0
"""Seconds after whose half a server connection is idle where `server_idle_timeout` is off."""
_FAREWELL = 5.0
"""Seconds in which a client must take what it is told at the end."""


class Proxy(ProxyPools):
    """A transaction-mode PostgreSQL proxy.

    Parameters: `settings`; `read_again`, which reads them anew when a reload is asked for; `team`, the workers of which
    this process is one.
    Made and used within a running event loop: `await Proxy(settings).serve()`.
    """

    def __init__(
        self, settings: Settings, read_again: Callable[[], Settings] | None = None, team: Team | None = None
    ) -> None:
        self.fleet = Fleet(self)
        super().__init__(settings, self.fleet.limit)
        self.siblings = Siblings(self, team)
        self._read_again = read_again
        self._changing = asyncio.Lock()
        verifiers = ClientVerifiers(settings, self.credentials.secrets, self.auth_query)
        self.logins = Logins(settings, verifiers, self.auth_query)
        self.averages = Averages(self.counts)
        self.control = Control(self)
        self.monitor = Monitor(self)
        self.certificates = CertificateKeeper(settings, self.credentials.aws)
        self._clients: dict[int, ClientConnection] = {}
        # Clients that are closed but have not taken all of what was sent, and since when.
        self._leaving: dict[ClientConnection, float] = {}
        self._headcount = self.siblings.headcount()
        # Under way; what logged-in clients take is known by their number.
        self._logins: set[Arrival] = set()
        self._last_login = asyncio.Event()
        self._places: dict[int, Place] = {}
        self._idle_clients = IdleClients(self._clients.values, self.pool_of)
        self._reload: asyncio.Task[None] | None = None
        self.consoles: set[Console] = set()
        self._listeners: list[socket.socket] = []
        self._unix: UnixListener | None = None
        self._draining = asyncio.Event()
        self._forced = asyncio.Event()
        self._delay = 0.0
        # Clients are closed as soon as they are idle.
        self._closing = False
        self._empty = asyncio.Event()
        self._shutdown: asyncio.Task[None] | None = None

    # Life

    async def serve(self) -> None:
        """Listen until SIGTERM or SIGINT, then drain; a second signal cuts the drain short.

        The signals stay caught afterwards: the process is expected to end.
        Raises: ConfigurationError when the address can't be listened on, or a target can't be reached.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.stop, 0.0)
        loop.add_signal_handler(signal.SIGHUP, self._reload_on_signal)
        # A worker begins with them blocked: none is lost, and none ends it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        if self.settings.check_targets and not self.siblings.again:
            await check_targets(self.settings, self.targets.resolver)
        await self.certificates.start()
        self.credentials.start()
        await self.monitor.start()
        await self.siblings.start()
        if not self._draining.is_set() and self._shutdown is None:
            self.listen()
        self._watch_targets()
        await self.fleet.start()
        sweeper = loop.create_task(self._sweep())
        watcher = loop.create_task(self.certificates.watch())
        try:
            await self._draining.wait()
            await self._linger()
            await self._drain()
        finally:
            sweeper.cancel()
            watcher.cancel()
            await self.close()

    def listen(self) -> None:
        """Begin to accept clients. Raises: ConfigurationError."""
        settings = self.settings
        self._listeners = tcp_listeners(settings.listen_host, settings.listen_port, shared=settings.workers > 1)
        if settings.unix_socket_dir is not None:
            mode, group = int(settings.unix_socket_mode, 8), settings.unix_socket_group
            try:
                self._unix = UnixListener(settings.unix_socket_dir, self.port, mode, group)
            except ConfigurationError:
                self._stop_listening()
                raise
            self._listeners.append(self._unix.socket)
            logger.info("tidegate-proxy %s is listening on %s", __version__, self._unix.path)
        self.hand_down_options()
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.add_reader(listener, self._accept, listener)
            if listener.family != socket.AF_UNIX:
                address = listener.getsockname()
                logger.info("tidegate-proxy %s is listening on %s port %d", __version__, address[0], address[1])

    def hand_down_options(self) -> None:
        """New clients get the socket options that the settings say."""
        for listener in self._listeners:
            hand_down(listener, self.settings.client_tcp_user_timeout)

    @property
    def port(self) -> int:
        """The TCP port that is listened on, also in the Unix socket's name."""
        if not self._listeners or self._listeners[0].family == socket.AF_UNIX:
            return self.settings.listen_port
        port: int = self._listeners[0].getsockname()[1]
        return port

    async def reload(self) -> str:
        """Read the configuration again and take over what has changed, all or nothing; also look for a new certificate.

        Clients stay. Returns: what has changed, in a sentence. Raises: ConfigurationError, then nothing has.
        """
        if self._read_again is None:
            self.certificates.reload()
            return "there is no configuration file to read again"
        changed = await self.siblings.reload(self._read_again)
        return f"reloaded: {', '.join(changed)} changed" if changed else "reloaded: nothing has changed"

    @contextlib.asynccontextmanager
    async def preparing(self, settings: Settings) -> AsyncIterator[Change]:
        """Other settings, in place of all that were before; nothing else changes any until this ends.

        Raises: ConfigurationError when this proxy can't have them.
        """
        async with self._changing:
            yield await Change.prepare(self, settings)

    async def follow(self, change: Change) -> None:
        """Take over what the configuration says, in place of what SET has said since it was read last."""
        await change.apply()
        self.certificates.reload()
        self.control.changed.clear()

    async def change(self, name: str, text: str) -> None:
        """Change one setting until the configuration is read again. Parameters: `text`, as in an environment variable.

        Raises: ConfigurationError, then nothing has changed.
        """
        async with self._changing:
            change = await Change.prepare(self, changed_settings(self.settings, name, text))
            await change.apply()

    def _reload_on_signal(self) -> None:
        async def reload() -> None:
            try:
                logger.info("%s", await self.reload())
            except ConfigurationError as error:
                logger.error("the configuration is not reloaded, the one before stays in use: %s", error)
            finally:
                self._reload = None

        if self._reload is None:
            self._reload = asyncio.get_running_loop().create_task(reload())

    @property
    def tls(self) -> ServerTLS | None:
        """What clients that come now are shown; None if they get no TLS."""
        return self.certificates.current

    def stop(self, delay: float | None = None) -> None:
        """Drain; called a second time, at once.

        Parameters: `delay` in seconds in place of `drain_delay`.
        """
        if self._draining.is_set():
            self._forced.set()
        self._delay = self.settings.drain_delay if delay is None else delay
        self._draining.set()

    async def _linger(self) -> None:
        if self._delay > 0:
            logger.info("not ready any more: new clients are taken for another %g s", self._delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._delay):
                    await self._forced.wait()

    def stop_after_last_client(self) -> None:
        """Take no new clients, and stop when the last one has gone."""
        self._stop_listening()

        async def wait() -> None:
            await self.control.until_no_clients()
            self.stop(0)

        self._shutdown = asyncio.get_running_loop().create_task(wait())

    @property
    def draining(self) -> bool:
        """Whether new clients are not taken any more."""
        return self._draining.is_set() or not self._listeners

    @property
    def logging_in(self) -> int:
        """How many connections are not logged in yet."""
        return len(self._logins)

    async def _drain(self) -> None:
        # Who has connected already is let in, and then told; to be cut off would look like a failure.
        for listener in self._listeners:
            for _ in range(BACKLOG // _ACCEPTS_AT_ONCE):
                self._accept(listener)
        self._stop_listening()
        logger.info(
            "draining: %d clients, at most %g s until the rest is closed; a second signal closes it now",
            len(self._clients),
            self.settings.drain_timeout,
        )
        self._closing = True
        for client in [*self._clients.values()]:
            client.shut_down()
        for console in [*self.consoles]:
            console.end()
        waits = [asyncio.ensure_future(wait) for wait in (self._until_all_are_gone(), self._forced.wait())]
        await asyncio.wait(waits, timeout=self.settings.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _until_all_are_gone(self) -> None:
        if self._logins:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_LOGINS):
                    await self._until_no_logins()
            for login in [*self._logins]:
                login.cancel()
            for client in [*self._clients.values()]:
                client.shut_down()
        if self._clients:
            await self._empty.wait()

    async def _until_no_logins(self) -> None:
        while self._logins:
            self._last_login.clear()
            await self._last_login.wait()

    async def close(self) -> None:
        """End everything now; clients that are still there get 57P01."""
        self._stop_listening()
        if self._clients:
            logger.warning("closing %d clients that did not finish in time", len(self._clients))
        for client in [*self._clients.values()]:
            client.end()
        if self._shutdown is not None:
            self._shutdown.cancel()
        for login in [*self._logins]:
            login.cancel()
        await self._until_no_logins()
        if self._pools:
            await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self.fleet.close()
        self.siblings.close()
        await self.targets.close()
        if self.iam is not None:
            await self.iam.close()
        await self.credentials.close()
        # What was written last leaves with the next turns of the loop.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self._clients:
                    self._empty.clear()
                    await self._empty.wait()
        for client in [*self._clients.values()]:
            client.transport.abort()
        await self.monitor.stop()
        logger.info("stopped")

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        if self._unix is not None:
            self._unix.close()
            self._unix = None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            try:
                await self._tick()
            except Exception:
                # Without timeouts, lifetimes and the drain from now on, it would be worse.
                logger.exception(
                    "a look at all pools and clients has failed: a fault of the proxy; the next one follows"
                )

    async def _tick(self) -> None:
        for key, pool in list(self._pools.items()):
            pool.sweep()
            if pool.unused and not pool.clients:
                del self._pools[key]
                await pool.close()
                self.counts.retire(*key)
        if self._closing:
            for client in [*self._clients.values()]:
                client.shut_down()
        now = asyncio.get_running_loop().time()
        self.sharing.close_idle(now, (self.settings.server_idle_timeout or _IDLE) / 2)
        self.siblings.end_if_told()
        self._idle_clients.sweep(now, self.settings.client_lifetime)
        self._forget_the_deaf(now)
        self.averages.tick(self.settings.stats_period)
        self.monitor.tick()

    def _forget_the_deaf(self, now: float) -> None:
        for client in [*self._clients.values()]:
            if client.closing and now - self._leaving.setdefault(client, now) >= _FAREWELL:
                client.transport.abort()

    # Clients

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    logger.error("cannot accept a client: %s", error.strerror)
                    # Level-triggered readiness would have us try again at once, for ever.
                    loop.remove_reader(listener)
                    loop.call_later(0.1, self._accept_again, listener)
                    return
                raise
            self.counts.received += 1
            connection.setblocking(False)
            local = self._unix is not None and listener is self._unix.socket
            source = "" if local else source_of(str(address[0]))
            place = Place(self._headcount, source)
            surplus, setting = self._surplus(source)
            if surplus > _REFUSALS_AT_ONCE:
                place.leave()
                connection.close()
                continue
            refusal = None
            if surplus > 0:
                refusal = LimitError.of(of_source(source), setting) if setting else LimitError()
            login = Login(self, loop, connection, place, peer_uid(connection) if local else None, refusal)
            self._logins.add(login)
            login.begin()

    def _surplus(self, source: str) -> tuple[int, str]:
        """By how many the clients are above a limit, the one from there included, and its setting if it is of these."""
        most = self.settings.max_client_conn_per_source
        if source and most and (count := self._headcount.of(of_source(source))) > most:
            return count - most, "max_client_conn_per_source"
        return self._headcount.total - self.settings.max_client_conn, ""

    def login_ended(self, login: Arrival) -> None:
        """A login has failed, or has become a client; called once."""
        self._logins.discard(login)
        if not self._logins:
            self._last_login.set()
        if not login.became_client:
            login.place.leave()

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    @property
    def clients(self) -> Iterable[ClientConnection]:
        """Every client that has logged in."""
        return self._clients.values()

    def new_cancel_key(self) -> tuple[int, bytes]:
        """Process id and key for a new client's BackendKeyData."""
        while True:
            pid, key = random_cancel_key()
            if self.fleet.enabled:
                pid = process_id(self.fleet.id)
            if pid not in self._clients:
                return pid, key

    def take_place(self, place: Place, database: str, user: str) -> None:
        """Count the client that is logging in for this database and user.

        Raises: LimitError when one of them has as many as it may.
        """
        place.belongs_to(database, user)
        pool = self._pools.get((database, user))
        shared = pool.shared_limits if pool is not None else None
        if shared is None:
            shared = shared_limits(self.settings, database, user)
        for most, setting, whose in (
            (shared.max_db_client_connections, "max_db_client_connections", of_database(database)),
            (shared.max_user_client_connections, "max_user_client_connections", of_user(user)),
        ):
            if most and self._headcount.of(whose) > most:
                raise LimitError.of(whose, setting)

    def add_client(self, client: ClientConnection, place: Place) -> None:
        """A client has logged in, and keeps the place that its login has taken."""
        self._empty.clear()
        self._clients[client.pid] = client
        self._places[client.pid] = place
        self.pool_of(client).clients += 1
        self.counts.accepted += 1

    def _client_lost(self, client: ClientConnection) -> None:
        if self._clients.pop(client.pid, None) is not None:
            self.counts.closed += 1
            if self.settings.log_connections:
                pool = self.pool_of(client)
                age = events.seconds_since(client.connected)
                logger.info(
                    "%s: client %d has gone after %g s",
                    pool.name,
                    client.pid,
                    age,
                    extra=events.of_client("disconnected", pool, client, seconds=age),
                )
            self.pool_of(client).clients -= 1
            if (place := self._places.pop(client.pid, None)) is not None:
                place.leave()
        self._leaving.pop(client, None)
        if not self._clients:
            self._empty.set()

    async def cancel(self, pid: int, key: bytes) -> None:
        """Do what a CancelRequest asks, if its key is right; nobody is told whether it was."""
        if not await self.cancel_own(pid, key):
            await self.fleet.pass_on_cancel(pid, key)

    async def cancel_own(self, pid: int, key: bytes) -> bool:
        """The same for this process's own clients. Returns: whether it was one of them."""
        client = self._clients.get(pid)
        if client is None or not hmac.compare_digest(client.key, key):
            return False
        await client.owner.cancel(client)
        return True
