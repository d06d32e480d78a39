"""Credentials that are not simply configured: secrets that rotate, IAM tokens, keys that clients' logins show."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable

from tidegate_proxy.credentials.aws import Aws, AwsError
from tidegate_proxy.credentials.provider import Credential
from tidegate_proxy.credentials.secret import PREVIOUS, Secret, SecretError, SecretVersion
from tidegate_proxy.errors import AuthenticationError, CredentialsUnavailableError, ProxyError
from tidegate_proxy.protocol.scram import ScramKeys

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for which a newer password is looked for after the one that had worked is refused: a rotation sets it in the
database and in Secrets Manager one after the other."""


class SecretCredential:
    """A secret's user and password: AWSCURRENT, then AWSPENDING, which a rotation may have set on the server already,
    then AWSPREVIOUS, which it may not have replaced there yet.

    Parameters: `user`, where the secret names none, and else it must be the same.
    """

    def __init__(self, secret: Secret, user: str | None) -> None:
        self.secret = secret
        self._problem: str | None = None
        self._user = user
        self._accepted: Credential | None = None

    @property
    def problem(self) -> str | None:
        """See CredentialProvider."""
        if self.secret.error is not None and not self.secret.versions:
            return str(self.secret.error)
        return self._problem

    async def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """See CredentialProvider."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            versions = await self.secret.current()
        except SecretError as error:
            raise _for_clients(self._user, str(error), transient=error.transient) from None
        tried: set[Credential] = set()
        read_again = False
        while True:
            for credential in self._credentials(versions):
                if credential not in tried:
                    tried.add(credential)
                    yield credential
            if read_again and loop.time() - began >= (PATIENCE if self._accepted is not None else 0):
                return
            versions = await self.secret.newer_than(loop.time())
            read_again = True

    def _credentials(self, versions: Iterable[SecretVersion]) -> list[Credential]:
        found: list[Credential] = []
        for version in versions:
            user = version.user or self._user
            if user is None:
                raise self._unusable('names no "username": add it to the secret, or set user for this database')
            if self._user is None or user == self._user:
                credential = Credential(user, version.password)
                # A password that is on its way out would be tried first for ever.
                if credential == self._accepted and version.stage != PREVIOUS:
                    found.insert(0, credential)
                else:
                    found.append(credential)
        if not found:
            raise self._unusable(f'is for another user than "{self._user}": name the right secret, or the right user')
        return found

    def _unusable(self, what: str) -> ProxyError:
        text = f'secret "{self.secret.name}" {what}'
        self._say(text)
        return _for_clients(self._user, text, transient=False)

    def accepted(self, credential: Credential) -> None:
        """See CredentialProvider."""
        self._accepted = credential
        self._problem = None

    def refused(self, error: ProxyError) -> None:
        """See CredentialProvider."""
        error.detail_log = f'the server refuses every version of secret "{self.secret.name}": {error.message}: '
        if self.secret.error is not None:
            error.detail_log += f"there may be a newer one, which cannot be read: {self.secret.error}"
        else:
            error.detail_log += "set the password in the secret to the one that the server has"
        self._say(error.detail_log)

    def _say(self, text: str) -> None:
        if text != self._problem:
            self._problem = text
            logger.error("%s", text)


class RdsTokenCredential:
    """An RDS IAM token for each new connection, signed with the proxy's own role."""

    def __init__(self, user: str, aws: Aws) -> None:
        self.problem: str | None = None
        self._user = user
        self._aws = aws

    async def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """See CredentialProvider."""
        try:
            token = await self._aws.rds_token(host, port, self._user)
        except AwsError as error:
            self._say(str(error))
            raise _for_clients(self._user, str(error), transient=error.transient) from None
        yield Credential(self._user, token)

    def accepted(self, credential: Credential) -> None:
        """See CredentialProvider."""
        self.problem = None

    def refused(self, error: ProxyError) -> None:
        """See CredentialProvider."""
        error.detail_log = (
            f'the server refuses the IAM token of user "{self._user}": {error.message}: allow the proxy\'s role '
            "rds-db:connect for this user, and GRANT rds_iam TO the user on the server"
        )
        self._say(error.detail_log)

    def _say(self, text: str) -> None:
        if text != self.problem:
            self.problem = text
            logger.error("%s", text)


class LearnedCredential:
    """What clients have shown of themselves when they logged in to the proxy as this user.

    What the server has accepted is tried first, and replaced when the server refuses it and accepts what was shown
    last: a client that began with an older password may show it later than another one the newer.
    """

    def __init__(self, user: str) -> None:
        self.problem: str | None = None
        self._latest = Credential(user)
        self._accepted: Credential | None = None

    def learn(self, shown: str | ScramKeys) -> None:
        """A client has logged in with this password, or has shown these keys."""
        self._latest = Credential(self._latest.user, shown)

    async def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """See CredentialProvider."""
        tried: list[Credential] = []
        # What is shown or accepted meanwhile is tried, too.
        while (best := next((c for c in (self._accepted, self._latest) if c and c not in tried), None)) is not None:
            tried.append(best)
            yield best

    def accepted(self, credential: Credential) -> None:
        """See CredentialProvider."""
        self._accepted = credential
        self.problem = None

    def refused(self, error: ProxyError) -> None:
        """See CredentialProvider."""
        self.problem = str(error)


def _for_clients(user: str | None, problem: str, *, transient: bool) -> ProxyError:
    # RDS Proxy's words. Names of secrets are for the log.
    role = f'the role "{user}"' if user is not None else "the database's role"
    if transient:
        return CredentialsUnavailableError(
            f"the proxy cannot get the credentials for {role} at present", detail_log=problem
        )
    return AuthenticationError(
        f"this proxy has no credentials for {role}",
        sqlstate="28000",
        hint="Check the credentials for this role and try again.",
        detail_log=problem,
    )
