"""What may be tried again, and after which pause. Pure decisions; the waiting is done elsewhere."""

from __future__ import annotations

import random
import time

import psycopg

from .errors import TidegateError

FIRST_PAUSE = 0.05
"""Seconds: upper bound of the pause after the first failure; it doubles with each further one."""

LONGEST_PAUSE = 2.0
"""Seconds: upper bound of any pause."""

REFUSED_LOGINS = ("28000", "28P01")
"""SQLSTATEs of a login that another password or token might cure."""

READ_ONLY = "25006"
"""SQLSTATE of a write that a server refuses: after a failover, the old writer's."""

# Beginnings of SQLSTATEs: a server that is full, starting or stopping, and a connection lost on the way.
_PASSING = ("53300", "57P01", "57P02", "57P03", "57P05", "08")

# Failures that libpq (or a libpq too old to tell the SQLSTATE) reports as text only, and that another attempt
# will not cure. libpq's own texts are English unless the application itself calls locale.setlocale for
# LC_MESSAGES and libpq is a build with translations, which psycopg-binary's is not.
_LASTING_TEXTS = (
    "no password supplied",
    "server does not support SSL",
    "certificate verify failed",
    "does not match host name",
    "root certificate file",
    "could not read root certificate",
    "could not load system root certificate",
    "certificate present, but not private key",
    "private key file",
    "authentication method requirement",
    "channel binding",
)
_LASTING_TEXTS_OF_SERVERS = (
    "authentication failed",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied for database",
    "is not currently accepting connections",
)


def pause_before(attempt: int) -> float:
    """Seconds to wait before a further attempt: exponential backoff with full jitter.

    Parameters: `attempt`, the number of attempts that failed before, from 0.
    """
    # Jitter only spreads load, so it need not be unpredictable.
    return random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 16)))  # noqa: S311


class Bucket:
    """Retries that one execution environment may make, over all its invocations, so that a database that is down
    is not hammered. It holds `burst` tokens, gets `rate` more each second, and each retry takes one.
    """

    def __init__(self, attempts: int, burst: int, rate: float) -> None:
        """Parameters: `attempts`, retries of one connect or one transaction; `burst`; `rate`, per second."""
        self._attempts = attempts
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._as_of = time.monotonic()

    def refuse(self, attempts: int) -> str | None:
        """Take a token for one more retry.

        Parameters: `attempts`, made so far.
        Returns: None if the retry may be made, else why not.
        """
        if attempts > self._attempts:
            return f"retry_attempts={self._attempts} allows no more"
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._as_of) * self._rate)
        self._as_of = now
        if self._tokens < 1:
            return f"this environment has made too many retries (retry_burst={self._burst}, retry_rate={self._rate:g})"
        self._tokens -= 1
        return None


def connect_may_succeed_later(sqlstate: str | None, message: str) -> bool:
    """Whether another attempt to connect makes sense.

    Parameters: `sqlstate`, the server's, if it is known; `message`, libpq's text.

    With an SQLSTATE the text does not matter, so any `lc_messages` will do. Without one the failure came from
    the network or from libpq itself, or libpq is older than 18; a text that nobody knows counts as passing,
    which costs a wait bounded by the deadline and never a wrong result.
    """
    if sqlstate is not None:
        return sqlstate.startswith(_PASSING)
    if "FATAL" in message and "does not exist" in message:
        return False
    return not any(text in message for text in _LASTING_TEXTS + _LASTING_TEXTS_OF_SERVERS)


def may_rerun(error: psycopg.Error, *, broken: bool) -> bool:
    """Whether a transaction that failed before its COMMIT was sent may be run again from its start.

    Parameters: `error`, what it failed with; `broken`, whether its connection was lost.

    Without COMMIT the server rolls back, whatever had been done, so a lost connection is safe to start over.
    """
    if broken:
        return True
    sqlstate = error.sqlstate
    return sqlstate in ("40001", "40P01") or (sqlstate is not None and sqlstate.startswith(_PASSING))


def commit_outcome_unknown(error: psycopg.Error, *, broken: bool) -> bool:
    """Whether `error`, which came in place of COMMIT's answer, leaves open if the transaction was committed.

    Parameters: `error`; `broken`, whether the connection was lost.
    """
    # An ERROR from a server that goes on is a definite "rolled back". FATAL is not: a server told to end
    # while it waits for a synchronous standby has already committed.
    if broken or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
        return True
    sqlstate = error.sqlstate
    if sqlstate is None:
        # Nothing that the server has said. psycopg may see that the socket is closed before libpq does: then the
        # connection still looks whole.
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, TidegateError)
    return sqlstate.startswith("08") or sqlstate == "40003"
