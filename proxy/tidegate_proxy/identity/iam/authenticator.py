"""The login of a client by a token: has it judged, and says no in words that help nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from tidegate_proxy.credentials.provider import CredentialProvider
from tidegate_proxy.errors import AuthenticationError, IdentityUnavailableError
from tidegate_proxy.identity.iam.answer import TryAgain
from tidegate_proxy.identity.iam.questions import Client
from tidegate_proxy.identity.iam.rds import Attempt, RdsLogins
from tidegate_proxy.identity.iam.reasons import TOO_MANY_FAILED, Reason, TokenError
from tidegate_proxy.identity.iam.token import is_proxy_token, token_hash
from tidegate_proxy.identity.iam.verifier import TokenVerifier
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.settings import DatabaseSettings, IamSettings

logger = logging.getLogger(__name__)

_MARGIN = 0.5
"""Seconds before the login's deadline at which we give up, so that the client still learns why."""


class IamAuthenticationError(AuthenticationError):
    """A token was refused. The client is told no more than that; `reason` is for the log."""

    def __init__(self, user: str, reason: str) -> None:
        super().__init__(
            f"The IAM authentication failed for the role {user}. Check the IAM token for this role and try again."
        )
        self.reason = reason

    def __str__(self) -> str:
        return f"{super().__str__()} REASON: {self.reason}"


class IamAuthenticator:
    """Logs clients in by AWS credentials.

    Parameters: `settings`, None for nobody; `alone`, whether nobody can log in in any other way: then whoever is
    unknown is asked for a token too, and nobody learns whom the rules name.
    For metrics: `results`, logins by outcome: "accepted", a `Reason`, "no-tls", "limit", "throttled" or "unavailable";
    `verifier` and `rds`, None without rules or rds_users.
    """

    def __init__(self, settings: IamSettings | None, *, alone: bool) -> None:
        self.results: Counter[str] = Counter()
        self.verifier: TokenVerifier | None = None
        self.rds: RdsLogins | None = None
        self._retired: list[TokenVerifier] = []
        self.follow(settings, alone=alone)

    def follow(self, settings: IamSettings | None, *, alone: bool) -> None:
        """Judge by these settings from now on; parameters as of the class. What is known of tokens is kept."""
        self._alone = alone
        self._users = settings.users if settings is not None else frozenset()
        self._rds_users = frozenset(settings.rds_users) if settings is not None else frozenset()
        if settings is None or not settings.rules or (self.verifier is not None and not self.verifier.follow(settings)):
            if self.verifier is not None:
                # Somebody may be waiting for its judgement.
                self._retired.append(self.verifier)
            self.verifier = None
        if settings is not None and settings.rules and self.verifier is None:
            self.verifier = TokenVerifier(settings)
        if settings is not None and settings.rds_users:
            if self.rds is None:
                self.rds = RdsLogins(settings.rds_logins_per_second)
            else:
                self.rds.set_rate(settings.rds_logins_per_second)

    def takes(self, user: str) -> bool:
        """Whether clients log in as this database user by a token."""
        return self._alone or user in self._users

    def credentials(self, database: str, user: str) -> CredentialProvider | None:
        """What the proxy may log in to a database's servers with as this user, if its clients bring it along."""
        return self.rds.tokens_of(database, user) if self.rds is not None and user in self._rds_users else None

    def need_tls(self, stream: Stream) -> None:
        """Raises: AuthenticationError outside TLS, where nobody is to be asked for a token."""
        if not stream.secure:
            self.results["no-tls"] += 1
            raise AuthenticationError(
                "IAM is allowed only with SSL connections.",
                sqlstate="28000",
                hint='Connect with "sslmode=require" or stricter.',
            )

    def ask(
        self,
        token: bytes,
        user: str,
        name: str,
        database: DatabaseSettings | None,
        pool: Callable[[], Pool],
        client: Client,
        deadline: float,
    ) -> asyncio.Future[Any]:
        """Have a token judged: whether its bearer may be `user`.

        Parameters: `name` of the database that the client wants, and the `database` of that name, if there is one;
        `pool`, makes the pool for it; `deadline` of the login, on the event loop's clock.
        Returns: what `decide` is given once it is done; to be cancelled if the client no longer waits.
        Raises: AuthenticationError.
        """
        try:
            if client.limited():
                raise TokenError(Reason.LIMIT, TOO_MANY_FAILED)
            if self.rds is not None and user in self._rds_users and not is_proxy_token(token):
                if database is None:
                    raise TokenError(
                        Reason.HOST, f'there is no server to try it on: no database "{name}" is configured'
                    )
                attempt = Attempt(user, name, database, pool)
                return asyncio.ensure_future(self.rds.verify(token, attempt, client, deadline - _MARGIN))
            if self.verifier is None:
                raise TokenError(Reason.NO_TOKEN, "the password is no token of the kind that is configured")
            return self.verifier.verify(token, user, client, deadline - _MARGIN)
        except TokenError as error:
            raise self._refusal(error, token, user) from None

    def decide(self, asked: asyncio.Future[Any], token: bytes, user: str) -> None:
        """Take the judgement, which `ask` has asked for.

        Raises: AuthenticationError; IdentityUnavailableError when nobody could judge the token; ConnectionResetError
        when the client has gone.
        """
        try:
            asked.result()
        except TokenError as error:
            raise self._refusal(error, token, user) from None
        except TryAgain as error:
            self.results["throttled" if error.throttled else "unavailable"] += 1
            logger.warning('the token %s for user "%s" could not be judged: %s', token_hash(token), user, error)
            raise IdentityUnavailableError(user, throttled=error.throttled) from None
        self.results["accepted"] += 1

    def _refusal(self, error: TokenError, token: bytes, user: str) -> AuthenticationError:
        self.results[error.reason] += 1
        return IamAuthenticationError(user, f"{error} (token {token_hash(token)})")

    async def close(self) -> None:
        """Give up what is under way."""
        for part in (self.verifier, self.rds, *self._retired):
            if part is not None:
                await part.close()
