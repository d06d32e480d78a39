"""Logins by SCRAM that need not wait for anybody: those of all users who stand in the configuration, or in nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tidegate_proxy.errors import AuthenticationError
from tidegate_proxy.identity.auth_query import AuthQuery
from tidegate_proxy.identity.client_login import ClientLogins
from tidegate_proxy.identity.verifiers import ClientVerifiers, Found
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.protocol.scram import ScramServerExchange, ScramVerifier
from tidegate_proxy.settings import Settings

Answer = TypeVar("Answer")


class Logins(ClientLogins):
    """`authenticate` in steps that do not wait, for whoever can be looked up and judged at once.

    All who fail do so in `refuse`, which takes the same time for all of them. Parameters: as of ClientLogins;
    `auth_query`, as of ClientVerifiers.
    """

    def __init__(
        self, settings: Settings, verifiers: ClientVerifiers, auth_query: Callable[[str], AuthQuery | None]
    ) -> None:
        super().__init__(settings, verifiers)
        self._auth_query = auth_query
        # Of users in the configuration, of whom there are not too many to be remembered.
        self._found: dict[str, Found] = {}

    def follow(self, settings: Settings, verifiers: ClientVerifiers) -> None:
        """Authenticate by these from now on."""
        super().follow(settings, verifiers)
        self._found.clear()

    def find(self, user: str, database: str) -> Found | None:
        """What is known of a user; None if that has to be asked for, or the password itself."""
        if self._settings.client_auth == "password" or self._auth_query(database) is not None:
            return None
        found = self._found.get(user)
        if found is None:
            own = self._settings.users.get(user)
            if own is not None and own.secret is not None:
                return None
            found = _without_waiting(self._verifiers.find(user, database, ask=False))
            if own is not None:
                self._found[user] = found
        return found

    def judge(self, stream: Stream, user: str, found: Found, exchange: ScramServerExchange) -> bytes | None:
        """Hold a proof that has been read against what was found.

        Returns: the server's final message; None for a proof that shall, or may, fail: then `refuse` it.
        """
        if self.limited(stream, user):
            return None
        for verifier in found.verifiers:
            with contextlib.suppress(AuthenticationError):
                answer = exchange.judge(verifier)
                self.succeeded += 1
                return answer
        return None

    async def refuse(self, stream: Stream, user: str, database: str, exchange: ScramServerExchange) -> bytes:
        """Fail, after as long as everybody who fails is kept waiting, unless the proof turns out to be right by then.

        Returns: the server's final message. Raises: as `authenticate`.
        """

        async def check(verifier: ScramVerifier) -> bytes:
            return exchange.judge(verifier)

        found = await self._verifiers.find(user, database, ask=not self.limited(stream, user))
        answer = await self._decide(stream, user, database, found, check)
        self.succeeded += 1
        return answer


def _without_waiting(work: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        work.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("it waits for something")
