"""Whether a token for the proxy lets its bearer in as a database user: read, asked STS about, judged by the policy."""

from __future__ import annotations

import asyncio
import hashlib
import time

from tidegate_proxy.identity.iam.answer import TryAgain
from tidegate_proxy.identity.iam.once import OncePerToken
from tidegate_proxy.identity.iam.policy import Policy, Principal, PrincipalPattern
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.sts import Sts
from tidegate_proxy.identity.iam.token import ProxyToken, parse_proxy_token
from tidegate_proxy.settings import IamSettings

_WORTHWHILE = 2.5
"""Seconds that must be left for another question: more than the longest pause between two attempts."""


class TokenVerifier:
    """Verifies tokens for the proxy.

    Parameters: `settings`, with rules.
    For metrics: `sts`, and `principals`, which counts what the cache saved.
    """

    def __init__(self, settings: IamSettings) -> None:
        region = settings.sts_region
        self.policy = _policy(settings)
        self.principals: OncePerToken[Principal] = OncePerToken()
        self.sts = Sts(
            settings.sts_endpoint or f"https://{region.sts_hosts[0]}",
            proxy_id=settings.proxy_id or "",
            connections=settings.sts_connections,
            timeout=settings.sts_timeout,
        )
        self._region = region
        self._asks = _asks(settings)

    def follow(self, settings: IamSettings) -> bool:
        """Take over the rules. Returns: False, and nothing is taken over, where STS is to be asked in another way."""
        if _asks(settings) != self._asks:
            return False
        self.policy = _policy(settings)
        return True

    async def verify(self, token: bytes, user: str, deadline: float) -> Principal:
        """Who the bearer is, when that principal may log in as `user`.

        Parameters: `token`, as it came; `deadline`, on the event loop's clock.
        Raises: TokenError; TryAgain when STS could not judge it by then.
        """
        parsed = parse_proxy_token(token, region=self._region.name, hosts=self._region.sts_hosts, now=time.time())
        principal = await self._identify(hashlib.sha256(token).digest(), parsed, deadline)
        if not self.policy.allows(principal, user):
            raise TokenError(
                Reason.PRINCIPAL,
                f'{principal.arn} may not log in as "{user}": no rule names this user together with'
                f" {principal.canonical}",
            )
        return principal

    async def _identify(self, key: bytes, token: ProxyToken, deadline: float) -> Principal:
        while True:
            try:
                return await self.principals.get(key, token.expires_at, lambda: self.sts.identify(token, deadline))
            except TryAgain:
                # It may have been somebody else's question, whose time was over earlier than ours.
                if asyncio.get_running_loop().time() + _WORTHWHILE >= deadline:
                    raise

    async def close(self) -> None:
        """Give up what is under way, and close connections."""
        await self.principals.close()
        await self.sts.close()


def _policy(settings: IamSettings) -> Policy:
    return Policy((PrincipalPattern.parse(rule.principal), rule.users) for rule in settings.rules)


def _asks(settings: IamSettings) -> dict[str, object]:
    """What decides how tokens are read and STS is asked."""
    return settings.model_dump(exclude={"rules", "rds_users", "rds_logins_per_second"})
