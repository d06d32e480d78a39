"""Opening a connection within a deadline.

psycopg's own connect_timeout is in whole seconds, at least two, and a failed connect carries no SQLSTATE. So
libpq's non-blocking connect is driven here through `psycopg.pq`: the wait is ours, and the SQLSTATE is read
from libpq's protocol trace, where it does not depend on the language of the server's messages (libpq 18 and
later; the text before that).
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from pathlib import Path
from typing import Self

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from .config import Config
from .errors import DeadlineExceeded
from .retry import connect_may_succeed_later, pause_before

Connection = psycopg.Connection[TupleRow]

# Where Amazon Linux and Debian keep the system's roots. libpq's "system" would ask the OpenSSL inside
# psycopg-binary, whose built-in folder exists on no machine.
_SYSTEM_ROOTS = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")

_SQLSTATE = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')


def open_by(config: Config, until: float) -> Connection:
    """Connect, trying again with backoff and jitter while the failure is one that passes.

    Parameters: `until`, the deadline on time.monotonic()'s clock.
    Raises: DeadlineExceeded; psycopg.OperationalError at once for what another attempt would not cure (a
    wrong password, no such database, TLS that does not fit), with `sqlstate` set where the server gave one.
    """
    attempt = 0
    last: psycopg.OperationalError | None = None
    while True:
        pause = pause_before(attempt - 1) if attempt else 0.0
        if time.monotonic() + pause >= until:
            raise DeadlineExceeded(
                f"no connection to {config.host}:{config.port} before the deadline, {attempt} attempts made: "
                + (str(last) if last else "it had passed already")
            ) from last
        time.sleep(pause)
        try:
            return open_once(config, until)
        except psycopg.OperationalError as error:
            if not connect_may_succeed_later(error.sqlstate, str(error)):
                raise
            last = error
        attempt += 1


def open_once(config: Config, until: float) -> Connection:
    """Make one attempt, over all the host's addresses.

    Parameters: `until`, the deadline on time.monotonic()'s clock; `config.connect_timeout` may end the
    attempt earlier. The look-up of the host's name is the one wait that this does not bound.
    Raises: psycopg.OperationalError, with `sqlstate` where the server gave one.
    """
    until = min(until, time.monotonic() + config.connect_timeout)
    addresses = _addresses(config)
    while True:
        address, *addresses = addresses
        now = time.monotonic()
        # A fair share for each, so that one address that swallows packets does not starve the others.
        share = now + (until - now) / (len(addresses) + 1)
        try:
            return psycopg.Connection(_connect(_conninfo(config, address), share))
        except psycopg.OperationalError as error:
            if not addresses or not connect_may_succeed_later(error.sqlstate, str(error)):
                raise


def ready(fd: int, events: int, until: float) -> bool:
    """Wait for one of `events` (select.POLLIN, POLLOUT) on a socket until a time on time.monotonic()'s clock.

    Returns: whether it came, or the socket failed, in time.
    """
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(max(0.0, until - time.monotonic()) * 1000))


def _addresses(config: Config) -> list[str | None]:
    if config.host.startswith(("/", "@")):
        return [None]
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise psycopg.OperationalError(f"connection failed: could not look up {config.host}: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _conninfo(config: Config, address: str | None) -> str:
    roots = config.sslrootcert
    if roots in (None, "system") and config.sslmode == "verify-full":
        roots = next((path for path in _SYSTEM_ROOTS if Path(path).exists()), "system")
    return make_conninfo(
        host=config.host,
        hostaddr=address,
        port=config.port,
        dbname=config.dbname,
        user=config.user,
        password=config.password,
        sslmode=config.sslmode,
        sslrootcert=roots,
        application_name=config.application_name,
        # Asking for Kerberos encryption first would cost a round trip.
        gssencmode="disable",
    )


def _connect(conninfo: str, until: float) -> pq.abc.PGconn:
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        with _SqlstateTrace(pgconn) as trace:
            status: int = pq.PollingStatus.WRITING  # as libpq wants the loop to begin
            while status in (pq.PollingStatus.READING, pq.PollingStatus.WRITING):
                if pgconn.status == pq.ConnStatus.BAD:
                    break
                events = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
                if not ready(pgconn.socket, events, until):
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
