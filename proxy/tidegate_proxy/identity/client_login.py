"""A client proves who it is: whichever way, with the same answer and in the same time for all who fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from tidegate_proxy.errors import AuthenticationError, TargetUnavailableError
from tidegate_proxy.identity.login_limits import LoginLimits
from tidegate_proxy.identity.verifiers import ClientVerifiers, Found
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.protocol.login_client import authenticate_client, authenticate_client_cleartext
from tidegate_proxy.protocol.scram import ScramKeys, ScramServerExchange, ScramVerifier
from tidegate_proxy.settings import Settings

logger = logging.getLogger(__name__)

FAILURE_DELAY = 0.5
"""Seconds from a client's proof to the answer that it is wrong: in this time a changed password is looked for, and what
was found shall not be told by how long that took. It also slows down who guesses."""

Answer = TypeVar("Answer")


class ClientLogins:
    """Authenticates clients and counts those who fail.

    Parameters: `settings`; `verifiers`, where users are found.
    """

    def __init__(self, settings: Settings, verifiers: ClientVerifiers) -> None:
        self.succeeded = 0
        """Logins with the right password."""
        self.failures: Counter[str] = Counter()
        """Logins that failed, by reason: password (wrong, or no such user), token, limit, unavailable, refused (all
        else that was wrong with how the client wanted to log in)."""
        self._settings = settings
        self._verifiers = verifiers
        self._limits = LoginLimits(settings.failed_logins_per_minute)

    def follow(self, settings: Settings, verifiers: ClientVerifiers) -> None:
        """Authenticate by these from now on."""
        self._settings = settings
        self._verifiers = verifiers

    def limited(self, stream: Stream, user: str) -> bool:
        """Whether a login from this address as this user must fail, because too many before it have."""
        return self._limits.exceeded(stream.source, user, _now())

    def failed(self, stream: Stream, user: str, reason: str) -> None:
        """Count a login that has failed: every way to log in calls this, once for each client that it turns down."""
        self.failures[reason] += 1
        # What fails by the limit alone is no further guess: or else who keeps trying would keep himself out.
        if reason not in ("unavailable", "limit") and self._limits.failed(stream.source, user, _now()):
            logger.warning(
                'too many failed logins from %s, the latest as user "%s": for some seconds all fail that come from '
                "there as this user (see failed_logins_per_minute)",
                stream.source,
                user,
            )

    async def authenticate(self, stream: Stream, user: str, database: str) -> str | ScramKeys | None:
        """Have a client prove that it is `user`.

        Returns: what it has shown, by which the server may let the proxy in.
        Raises: AuthenticationError; TargetUnavailableError when it can't be told whether it is right;
        ClientProtocolError, and what `stream` raises.
        """
        found = await self._verifiers.find(user, database, ask=not self.limited(stream, user))
        decide = partial(self._decide, stream, user, database, found)
        try:
            if self._settings.client_auth == "password":
                shown: str | ScramKeys | None = await authenticate_client_cleartext(
                    stream, user, partial(_is_password, decide)
                )
            else:
                shown = await authenticate_client(
                    stream, user, (*found.verifiers, found.mock)[0], judge=partial(_judge, decide)
                )
        except AuthenticationError as error:
            if error.sqlstate != "28P01":  # a wrong password has been counted before its delay
                self.failed(stream, user, "refused")
            raise
        self.succeeded += 1
        return shown

    async def _decide(
        self,
        stream: Stream,
        user: str,
        database: str,
        found: Found,
        check: Callable[[ScramVerifier], Awaitable[Answer]],
    ) -> Answer:
        """Hold a proof against all that is known of the user.

        Parameters: `check`, raises AuthenticationError unless the verifier fits.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + FAILURE_DELAY
        limited = self.limited(stream, user)
        for verifier in found.verifiers or (found.mock,):
            with contextlib.suppress(AuthenticationError):
                answer = await check(verifier)
                # Others may have failed meanwhile: many connections at a time are not to be worth more guesses.
                limited = limited or self.limited(stream, user)
                if found.verifiers and not limited:
                    return answer
        # Before anything is waited for: who guesses with many connections at a time is counted at once, too.
        self.failed(stream, user, _reason(found, limited=limited))
        if not limited:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    for verifier in await self._verifiers.again(user, database):
                        with contextlib.suppress(AuthenticationError):
                            answer = await check(verifier)
                            self.failures[_reason(found, limited=limited)] -= 1
                            self._limits.forgive(stream.source, user)
                            return answer
        uncertain = found.uncertain or (not limited and await self._verifiers.unanswered(user, database))
        await asyncio.sleep(end - loop.time())
        if uncertain:
            # The same to everybody, or it would tell who is missing.
            raise TargetUnavailableError(
                f'the password of user "{user}" cannot be checked at present', hint="Try again later."
            )
        raise AuthenticationError.password(user)


async def _judge(
    decide: Callable[[Callable[[ScramVerifier], Awaitable[bytes]]], Awaitable[bytes]],
    exchange: ScramServerExchange,
    client_final: bytes,
) -> bytes:
    exchange.read_proof(client_final)

    async def check(verifier: ScramVerifier) -> bytes:
        return exchange.judge(verifier)

    return await decide(check)


async def _is_password(
    decide: Callable[[Callable[[ScramVerifier], Awaitable[bool]]], Awaitable[bool]], password: bytes
) -> bool:
    async def check(verifier: ScramVerifier) -> bool:
        # In a thread: with the most iterations that are allowed it takes a quarter of a second.
        if not await asyncio.to_thread(verifier.matches, password):
            raise AuthenticationError
        return True

    return await decide(check)


def _reason(found: Found, *, limited: bool) -> str:
    if limited:
        return "limit"
    return "unavailable" if found.uncertain and not found.verifiers else "password"


def _now() -> float:
    return asyncio.get_running_loop().time()
