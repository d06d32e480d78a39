"""Errors by whose fault they are and what to do about them.

Every error that a client may come to see is a ProxyError: it carries what an ErrorResponse needs and is
translated into one at a single boundary (`protocol.encode.error_response`). Errors of the configuration live
with the settings.
"""

from __future__ import annotations

from typing import ClassVar, Self


class ProxyError(Exception):
    """What went wrong, in PostgreSQL's terms.

    Parameters: `message`, one sentence in PostgreSQL's style (the class's own where omitted); `sqlstate`,
    five characters, where it differs from the class's; `detail` and `hint`, what else a person needs to know,
    and the remedy; `detail_log`, what only operators may know, for the log and for target health. None of them may
    contain a secret: they are sent and logged.
    """

    default_sqlstate: ClassVar[str] = "XX000"
    default_message: ClassVar[str] = "internal error in the proxy"
    default_hint: ClassVar[str | None] = None

    def __init__(
        self,
        message: str | None = None,
        *,
        sqlstate: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
        detail_log: str | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.sqlstate = sqlstate or self.default_sqlstate
        self.detail = detail
        self.hint = hint or self.default_hint
        self.detail_log = detail_log
        super().__init__(self.message)

    def __str__(self) -> str:
        text = self.message
        if self.detail:
            text += f" DETAIL: {self.detail}"
        if self.hint:
            text += f" HINT: {self.hint}"
        return text

    @property
    def for_operators(self) -> str:
        """What happened and what would help, for those who run the proxy."""
        return self.detail_log or str(self)


class ClientProtocolError(ProxyError):
    """The client sent what the protocol does not allow here."""

    default_sqlstate = "08P01"
    default_message = "protocol violation by the client"


class ServerProtocolError(ProxyError):
    """The server sent what the protocol does not allow here.

    To the client this is a connection that failed (08006): 08P01 would say that the client itself was at
    fault.
    """

    default_sqlstate = "08006"
    default_message = "protocol violation by the target server"


class AuthenticationError(ProxyError):
    """A client did not prove who it is, or the proxy has not what the target asks it for."""

    default_sqlstate = "28P01"
    default_message = "password authentication failed"

    @classmethod
    def password(cls, user: str) -> Self:
        """The one answer to a wrong password and to an unknown user: it must not tell which it was."""
        return cls(f'password authentication failed for user "{user}"')


class IdentityUnavailableError(ProxyError):
    """Nobody could judge at present whether a client is who it says: to be tried again, and no wrong password."""

    default_sqlstate = "57P03"
    default_hint = "Try again later."

    def __init__(self, user: str, *, throttled: bool = False) -> None:
        why = "AWS is throttling requests" if throttled else "AWS could not be asked"
        super().__init__(f"The IAM authentication for the role {user} could not be completed: {why}.")


class BorrowTimeoutError(ProxyError):
    """No server connection became free in time."""

    default_sqlstate = "53300"
    default_message = 'no server connection became free within "connection_borrow_timeout"'
    default_hint = 'Shorten transactions, or raise "default_pool_size" or "connection_borrow_timeout".'


class QueueFullError(ProxyError):
    """As many clients wait for a server connection as may."""

    default_sqlstate = "53300"

    def __init__(self, waiting: int) -> None:
        super().__init__(
            f"too many clients wait for a server connection already ({waiting})",
            hint='Try again later, or raise "max_waiting_clients" or "default_pool_size".',
        )


class DeadlineError(ProxyError):
    """The deadline that a client has set for its transaction has passed."""

    default_sqlstate = "57014"
    default_message = "canceling transaction: the deadline that its client has set has passed"
    default_hint = "The client has set it with tidegate.deadline_ms."


class LimitError(ProxyError):
    """The proxy holds as many clients as it may."""

    default_sqlstate = "53300"
    default_message = "sorry, too many clients already"
    default_hint = 'The proxy has reached "max_client_conn".'

    @classmethod
    def of(cls, what: str, setting: str) -> Self:
        """The clients of `what`, say `user "app"`, are as many as this setting allows."""
        return cls(f"too many connections for {what}", hint=f'The proxy has reached "{setting}".')


class TargetUnavailableError(ProxyError):
    """The target server can't be reached or does not take connections now."""

    default_sqlstate = "08006"
    default_message = "could not connect to the target server"
    default_hint = "Check that the target server is running and that the proxy can reach it, then try again."


class TargetUnreachableError(TargetUnavailableError):
    """Nothing answers at the target server's address, or its name has none."""


class CredentialsUnavailableError(TargetUnavailableError):
    """AWS gives the proxy no credentials for the target server at present."""

    default_hint = "Try again later."


class ConnectionLostError(TargetUnavailableError):
    """A server connection broke while a client held it."""

    default_message = "server closed the connection unexpectedly"
    default_hint = (
        "The transaction was rolled back, unless its COMMIT was already on its way: find out before you run it again "
        "if it must not take effect twice. Your connection to the proxy goes on."
    )


class TargetTLSError(ProxyError):
    """The target server has no TLS, or its certificate is not one that the configuration trusts."""

    default_sqlstate = "08001"
    default_message = "could not connect to the target server by TLS"
    default_hint = 'Check "tls", "tls_ca" and "host" of this database in the proxy\'s configuration.'


class TargetRefusedError(ProxyError):
    """The target server refused the login with an ErrorResponse of its own, which is kept as it came."""

    default_sqlstate = "08006"
    default_message = "the target server refused the connection without saying why"


class ShutdownError(ProxyError):
    """The proxy ends this connection because it is being stopped or restarted."""

    default_sqlstate = "57P01"
    default_message = "terminating connection due to administrator command"
