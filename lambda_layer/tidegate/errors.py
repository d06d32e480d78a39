"""The layer's own errors. Whatever PostgreSQL itself says reaches the caller as psycopg's error."""

from __future__ import annotations

import psycopg


class TidegateError(Exception):
    """Base of the layer's errors; raised itself when the layer is misused, with a message that says how."""


class ConfigurationError(TidegateError):
    """A setting is missing, malformed or contradicts another.

    What to do: set the variable that the message names; the message shows an example value.
    """


class DeadlineExceeded(TidegateError, psycopg.OperationalError):  # noqa: N818
    """The invocation's deadline came before a connection could be had, or while a statement ran.

    A statement that ran was cancelled on the server, and its transaction rolled back. Only where the message says
    that the cancel could not be delivered was the connection given up, and a statement outside a transaction may go
    on. Of a transaction in which this is raised nothing is committed; where that is open, it is CommitOutcomeUnknown.

    What to do: the invocation may be repeated as a whole. If it happens often, look at the cause (`__cause__`
    is the last failed attempt or the server's own error): a database that is down or full, a security group that
    drops packets, a slow statement, or a function timeout too short for a cold start.
    """


class CommitOutcomeUnknown(TidegateError, psycopg.OperationalError):  # noqa: N818
    """The connection was lost between COMMIT and its answer: the transaction may or may not be committed.

    - `xid`: the transaction's identifier where it was known, for `pg_xact_status`; otherwise None.

    What to do: look in the database whether the work is there before repeating it, or make the work safe to
    repeat (a unique key for each piece of work, INSERT ... ON CONFLICT DO NOTHING). Never repeat it blindly.
    """

    def __init__(self, message: str, xid: int | None = None) -> None:
        super().__init__(message)
        self.xid = xid


class PasswordUnavailable(TidegateError):  # noqa: N818
    """Nothing to log in with could be had: no AWS credentials, or a secret that cannot be read or used.

    What to do: the message names the resource and the remedy. It never shows a secret.
    """
