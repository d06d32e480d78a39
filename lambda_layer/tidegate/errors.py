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
    """No connection could be had before the invocation's deadline. Nothing was sent to the database.

    What to do: the invocation may be repeated as a whole. If it happens often, look at the cause (`__cause__`
    is the last failed attempt): a database that is down or full, a security group that drops packets, or a
    function timeout too short for a cold start.
    """


class CommitOutcomeUnknown(TidegateError, psycopg.OperationalError):  # noqa: N818
    """The connection was lost between COMMIT and its answer: the transaction may or may not be committed.

    What to do: look in the database whether the work is there before repeating it, or make the work safe to
    repeat (a unique key for each piece of work, INSERT ... ON CONFLICT DO NOTHING). Never repeat it blindly.
    """


class PasswordUnavailable(TidegateError):  # noqa: N818
    """Nothing to log in with could be had: no AWS credentials, or a secret that cannot be read or used.

    What to do: the message names the resource and the remedy. It never shows a secret.
    """
