"""Where a connector gets its user and password from, anew for each connection that it opens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Protocol

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol.scram import ScramKeys


@dataclass(frozen=True, slots=True)
class Credential:
    """A user of the server, and what it logs in with: a password, keys that a client's login has shown, or None where
    the server asks for nothing."""

    user: str
    password: str | ScramKeys | None = field(default=None, repr=False)


class CredentialProvider(Protocol):
    """Gives credentials, and says why it can't.

    One provider may serve many connectors, and many connection attempts at a time.
    """

    @property
    def problem(self) -> str | None:
        """What is wrong at present, with the resource's name and the remedy, for target health; None once a login has
        worked."""

    def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """The credentials to try for one new connection to the server that goes by this name, best first.

        A database may have several servers, and an RDS IAM token is signed for the one endpoint that it is used at.
        Asking for the next one says that the server has refused the one before, so that a provider may look for a newer
        password in between. Raises: AuthenticationError (28000) when there are no credentials;
        CredentialsUnavailableError when they can't be had at present. `detail_log` names the resource and the remedy.
        """

    def accepted(self, credential: Credential) -> None:
        """The server let us in with this one."""

    def refused(self, error: ProxyError) -> None:
        """The server refused all of them, the last with this error, which is given a `detail_log` if there is more to
        say."""


class FixedCredential:
    """One user and password, from the configuration."""

    def __init__(self, user: str, password: str | ScramKeys | None) -> None:
        self.problem: str | None = None
        self._credential = Credential(user, password)

    async def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """See CredentialProvider."""
        yield self._credential

    def accepted(self, credential: Credential) -> None:
        """See CredentialProvider."""
        self.problem = None

    def refused(self, error: ProxyError) -> None:
        """See CredentialProvider."""
        user = self._credential.user
        if self._credential.password is None:
            error.detail_log = f'the server does not let user "{user}" in without a password: {error}'
        else:
            error.detail_log = (
                f'the server refuses user "{user}" with the configured password: {error}: correct it in the '
                "configuration, or set it on the server"
            )
        self.problem = error.detail_log


def is_refusal(error: ProxyError) -> bool:
    """Whether a server has turned down the user or the password, so that others may do better: 28P01, 28000."""
    return error.sqlstate in ("28P01", "28000")
