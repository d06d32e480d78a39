"""What clients are checked against: verifiers from the configuration, from secrets, from the database itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tidegate_proxy.credentials.secret import PREVIOUS, Secret, SecretError, SecretVersion
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.identity.auth_query import AuthQuery
from tidegate_proxy.protocol.scram import (
    MIN_ITERATIONS,
    PROCESS_SECRET,
    ScramVerifier,
    mock_verifier,
    salt_for,
)
from tidegate_proxy.settings import Settings

_LOOKUP_WAIT = 5.0
"""Seconds for which a login waits to learn its user's verifier: as long as a short failover takes."""

_EQUAL_WAIT = 0.25
"""Seconds for which a login of a configured user waits for what it does not need."""


@dataclass(frozen=True)
class Found:
    """What is known of the user who wants to log in.

    - `verifiers`: any of them may match; all have the same salt. None for a user who does not exist.
    - `mock`: what is shown instead where there are none.
    - `uncertain`: somebody may be missing in this, since a source can't be read at present.
    """

    verifiers: tuple[ScramVerifier, ...]
    mock: ScramVerifier
    uncertain: bool = False


class ClientVerifiers:
    """Finds verifiers.

    Parameters: `secrets`, by name; `auth_query`, gives the AuthQuery of a database that has an `auth_user`.
    """

    def __init__(
        self, settings: Settings, secrets: dict[str, Secret], auth_query: Callable[[str], AuthQuery | None]
    ) -> None:
        self._settings = settings
        self._secrets = {name: secrets[user.secret] for name, user in settings.users.items() if user.secret}
        self._auth_query = auth_query
        given = settings.scram_mock_secret
        self._mock_secret = given.get_secret_value().encode() if given is not None else PROCESS_SECRET
        self._configured = {
            name: ScramVerifier.parse(user.verifier.get_secret_value())
            if user.verifier is not None
            else self._derive(name, user.password.get_secret_value() if user.password else "")
            for name, user in settings.users.items()
            if user.secret is None
        }
        self._derived: dict[tuple[str, str], ScramVerifier] = {}
        # What most users have, nobody is told apart by.
        counts = Counter(verifier.iterations for verifier in self._configured.values())
        self._iterations = counts.most_common(1)[0][0] if counts else MIN_ITERATIONS

    async def find(self, user: str, database: str, *, ask: bool = True) -> Found:
        """Look a user up. Parameters: `ask`, whether the database may be asked."""
        query = self._auth_query(database)
        if user in self._configured or user in self._secrets:
            if query is not None and ask:
                # Else the names in `users` could be told from others: they would be answered sooner.
                with contextlib.suppress(ProxyError, TimeoutError):
                    async with asyncio.timeout(_EQUAL_WAIT):
                        await query.verifier(user)
            own = self._configured.get(user)
            return self._found(user, query, (own,) if own is not None else await self._of_secret(user))
        if query is None:
            return self._found(user, query, ())
        if not ask:
            verifier = query.known(user)
        else:
            try:
                async with asyncio.timeout(_LOOKUP_WAIT):
                    verifier = await query.verifier(user)
            except (ProxyError, TimeoutError):
                # Who was known keeps being known: a database that is down for a while locks nobody out of the proxy.
                verifier = query.known(user)
                return self._found(user, query, (verifier,) if verifier is not None else (), uncertain=True)
        return self._found(user, query, (verifier,) if verifier is not None else ())

    async def again(self, user: str, database: str) -> tuple[ScramVerifier, ...]:
        """The verifiers of a user whose login has failed: the password may have been changed since they were read."""
        secret = self._secrets.get(user)
        if secret is not None:
            with contextlib.suppress(SecretError):
                return self._verifiers(user, await secret.newer_than(asyncio.get_running_loop().time()))
            return ()
        query = self._auth_query(database)
        if user in self._configured or query is None:
            return ()
        with contextlib.suppress(ProxyError):
            verifier = await query.newer(user)
            return (verifier,) if verifier is not None else ()
        return ()

    async def unanswered(self, user: str, database: str) -> bool:
        """Whether a configured user's failure must look like others', about whom the database gives no answer.

        Waits for as long as for them.
        """
        query = self._auth_query(database)
        if query is None or not (user in self._configured or user in self._secrets):
            return False
        try:
            async with asyncio.timeout(_LOOKUP_WAIT):
                await query.verifier(user)
        except (ProxyError, TimeoutError):
            return True
        return False

    def _found(
        self,
        user: str,
        query: AuthQuery | None,
        verifiers: tuple[ScramVerifier, ...],
        *,
        uncertain: bool = False,
    ) -> Found:
        # As PostgreSQL does it: with the setting by which verifiers are made.
        iterations = query.iterations if query is not None and query.queries else self._iterations
        unread = any(not secret.versions for secret in self._secrets.values())
        unanswered = query is not None and query.last_error is not None
        return Found(
            verifiers,
            mock_verifier(user, self._mock_secret, iterations),
            uncertain or unread or unanswered,
        )

    async def _of_secret(self, user: str) -> tuple[ScramVerifier, ...]:
        with contextlib.suppress(SecretError, TimeoutError):
            async with asyncio.timeout(_LOOKUP_WAIT):
                return self._verifiers(user, await self._secrets[user].current())
        return ()

    def _verifiers(self, user: str, versions: tuple[SecretVersion, ...]) -> tuple[ScramVerifier, ...]:
        own = [version for version in versions if version.user in (None, user)]
        # A rotation between two users leaves the other one's password valid; of one user's, the old one is not.
        valid = [version for version in own if version.stage != PREVIOUS] or own
        derived = {}
        for version in valid:
            key = (user, version.password)
            derived[key] = self._derived.get(key) or self._derive(user, version.password)
        for old in [key for key in self._derived if key[0] == user]:
            del self._derived[old]
        self._derived |= derived
        return tuple(derived.values())

    def _derive(self, user: str, password: str) -> ScramVerifier:
        # With the salt of one who does not exist: it is the same for all of a user's passwords, so that a client's one
        # proof can be held against a newer one.
        return ScramVerifier.from_password(password, salt=salt_for(user, self._mock_secret))
