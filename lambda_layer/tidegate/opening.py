"""Opening a connection within a deadline.

psycopg's own connect_timeout is in whole seconds, at least two, and a failed connect carries no SQLSTATE. So
libpq's non-blocking connect is driven here through `psycopg.pq`: the wait is ours, and the SQLSTATE is read
from libpq's protocol trace, where it does not depend on the language of the server's messages (libpq 18 and
later; the text before that).
"""

from __future__ import annotations

import logging
import os
import re
import select
import time
from typing import Self

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from . import metrics
from .config import Config
from .connection import AnyConnection
from .errors import ConfigurationError, DeadlineExceeded
from .passwords import PasswordSource, password_source
from .retry import REFUSED_LOGINS, Bucket, connect_may_succeed_later, pause_before
from .settings import RDS_IAM, TIDEGATE_IAM
from .waits import Waits

_SQLSTATE = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')

# How a server before 14 and a pooler in its place refuse a parameter that they do not know.
_REFUSED_OPTION = ("42704", "08P01", "0A000")

logger = logging.getLogger("tidegate")


class Opener:
    """Opens connections for one database: within a deadline, again while it makes sense.

    - `source`: what to log in with.
    """

    def __init__(self, config: Config, waits: Waits, bucket: Bucket) -> None:
        self.source: PasswordSource = password_source(config)
        self._config = config
        self._waits = waits
        self._bucket = bucket
        self._token: str | None = None
        # Through a proxy the server's session is nobody's own: there is nothing to ask it for.
        self._ask_idle_timeout = (
            config.idle_session_timeout > 0 and config.auth != TIDEGATE_IAM and ".proxy-" not in config.host
        )

    async def open_by(self, until: float) -> AnyConnection:
        """Connect, trying again with backoff and jitter while the failure is one that passes.

        Parameters: `until`, the deadline on time.monotonic()'s clock.
        Raises: DeadlineExceeded; psycopg.OperationalError at once for what another attempt would not cure (a
        wrong password, no such database, TLS that does not fit), or when no more retries are allowed, with `sqlstate`
        set where the server gave one; PasswordUnavailable.
        """
        attempt = 0
        last: psycopg.OperationalError | None = None
        while True:
            pause = pause_before(attempt - 1) if attempt else 0.0
            if time.monotonic() + pause >= until:
                metrics.count("DeadlineExceeded")
                raise DeadlineExceeded(
                    f"no connection to {self._target()} before the deadline, {attempt} attempts made: "
                    + (str(last) if last else "it had passed already")
                ) from last
            await self._waits.sleep(pause)
            started = time.monotonic()
            try:
                conn = await self.open_once(until)
            except psycopg.OperationalError as error:
                if not connect_may_succeed_later(error.sqlstate, str(error)):
                    raise
                last = error
            else:
                metrics.duration("Connect", time.monotonic() - started)
                return conn
            attempt += 1
            if refusal := self._bucket.refuse(attempt):
                last.add_note(f"{attempt} attempts were made to connect to {self._target()}; {refusal}")
                raise last
            metrics.count("Retry", reason=last.sqlstate or "connect")

    async def open_once(self, until: float) -> AnyConnection:
        """Make one attempt, over all the host's addresses; what was cached to log in with is replaced if refused.

        Parameters: `until`, the deadline on time.monotonic()'s clock; `connect_timeout` may end it earlier.
        Raises: psycopg.OperationalError, with `sqlstate` where the server gave one; PasswordUnavailable.
        """
        until = min(until, time.monotonic() + self._config.connect_timeout)
        try:
            return await self._attempt(until)
        except psycopg.OperationalError as error:
            if error.sqlstate in _REFUSED_OPTION and self._ask_idle_timeout:
                logger.info("the server does not know idle_session_timeout: it is not asked for any more")
                self._ask_idle_timeout = False
            elif not _login_refused(error) or not self.source.rejected():
                raise
            return await self._attempt(until)

    async def _attempt(self, until: float) -> AnyConnection:
        config = await self._waits.call(self.source.complete, until)
        if config.auth in (RDS_IAM, TIDEGATE_IAM) and config.password != self._token:
            self._token = config.password
            metrics.count("TokenSigned")
        addresses = await self._addresses(config, until)
        while True:
            address, *addresses = addresses
            now = time.monotonic()
            # A fair share for each, so that one address that swallows packets does not starve the others.
            share = now + (until - now) / (len(addresses) + 1)
            try:
                return self._waits.connection(await self._connect(self._conninfo(config, address), share))
            except psycopg.OperationalError as error:
                if not addresses or not connect_may_succeed_later(error.sqlstate, str(error)):
                    raise

    async def _addresses(self, config: Config, until: float) -> list[str] | list[None]:
        if config.host.startswith(("/", "@")):
            return [None]
        try:
            return await self._waits.addresses(config.host, config.port, until)
        except ValueError as error:
            raise ConfigurationError(
                f"the host {config.host!r} cannot be a host's name ({error}): set TIDEGATE_HOST (PGHOST), or the host"
                " in the secret, for example TIDEGATE_HOST=db.example.com"
            ) from None
        except OSError as error:
            raise psycopg.OperationalError(f"connection failed: could not look up {config.host}: {error}") from error

    def _conninfo(self, config: Config, address: str | None) -> str:
        options = {}
        if self._ask_idle_timeout:
            milliseconds = round(config.idle_session_timeout * 1000)
            # What PGOPTIONS says would be lost otherwise, and has the last word.
            given = os.environ.get("PGOPTIONS", "")
            options["options"] = f"-c idle_session_timeout={milliseconds} {given}".rstrip()
        return make_conninfo(
            host=config.host,
            # Said even where there is none, or libpq would take it from PGHOSTADDR.
            hostaddr=address or "",
            port=config.port,
            dbname=config.dbname,
            user=config.user,
            password=config.password,
            sslmode=config.sslmode,
            sslrootcert=config.sslrootcert,
            application_name=config.application_name,
            # Asking for Kerberos encryption first would cost a round trip.
            gssencmode="disable",
            **options,
        )

    async def _connect(self, conninfo: str, until: float) -> pq.abc.PGconn:
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            with _SqlstateTrace(pgconn) as trace:
                status: int = pq.PollingStatus.WRITING  # as libpq wants the loop to begin
                while status in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
                    if pgconn.status == pq.ConnStatus.BAD:
                        break
                    events = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
                    if not await self._waits.ready(pgconn.socket, events, until):
                        raise psycopg.errors.ConnectionTimeout("connection failed: no answer in time")
                    status = pgconn.connect_poll()
            if status != pq.PollingStatus.OK:
                failure = psycopg.OperationalError(f"connection failed: {pgconn.get_error_message()}")
                failure.sqlstate = trace.sqlstate
                raise failure
        except BaseException:
            pgconn.finish()
            raise
        pgconn.nonblocking = 1
        return pgconn

    def _target(self) -> str:
        return f"{self._config.host or 'the host in the secret'}:{self._config.port or 'its port'}"


def _login_refused(error: psycopg.OperationalError) -> bool:
    if error.sqlstate is not None:
        return error.sqlstate in REFUSED_LOGINS
    return "authentication failed" in str(error)


class _SqlstateTrace:
    """Has libpq write down the messages of a login, and finds the SQLSTATE of a refusal among them.

    The trace is memory of this process and ends with the block. psycopg does not free the few kilobytes of the C
    stream that it makes for libpq, once for each attempt to connect.
    """

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self.sqlstate: str | None = None
        self._pgconn = pgconn
        self._fd: int | None = None

    def __enter__(self) -> Self:
        # Before 18, libpq traces nothing until the login is complete.
        if pq.version() >= 180000 and self._pgconn.status != pq.ConnStatus.BAD:
            self._fd = os.memfd_create("tidegate-trace")
            self._pgconn.trace(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is None:
            return
        # Flushes the stream. Were that left out, C would do it when the process ends, into whatever file or socket
        # has the descriptor's number by then.
        self._pgconn.untrace()
        found = _SQLSTATE.findall(os.pread(self._fd, 1 << 20, 0))
        os.close(self._fd)
        if found:
            # The last one: with sslmode=prefer libpq may have tried twice.
            self.sqlstate = found[-1].decode()
