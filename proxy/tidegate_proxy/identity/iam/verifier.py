"""Whether a token for the proxy lets its bearer in as a database user: read, asked STS about, judged by the policy."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial

from tidegate_proxy.identity.iam.answer import TryAgain
from tidegate_proxy.identity.iam.policy import Policy, Principal, PrincipalPattern
from tidegate_proxy.identity.iam.questions import Client, Questions
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.sts import Sts
from tidegate_proxy.identity.iam.token import parse_proxy_token
from tidegate_proxy.settings import IamSettings

_BUSY = "too many tokens are waiting to be checked (sts_connections)"


class TokenVerifier:
    """Verifies tokens for the proxy.

    Parameters: `settings`, with rules.
    For metrics: `sts`.
    """

    def __init__(self, settings: IamSettings) -> None:
        region = settings.sts_region
        self.policy = _policy(settings)
        self._questions: Questions[Principal] = Questions(settings.sts_connections, busy=partial(TryAgain, _BUSY))
        self.sts = Sts(
            settings.sts_endpoint or f"https://{region.sts_hosts[0]}",
            proxy_id=settings.proxy_id or "",
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

    def verify(self, token: bytes, user: str, client: Client, deadline: float) -> asyncio.Future[Principal]:
        """Who the bearer is, when that principal may log in as `user`.

        Parameters: `token`, as it came; `deadline`, on the event loop's clock.
        Returns: a future, for the caller to cancel if nobody wants it any more. Its exceptions: TokenError; TryAgain
        when STS could not judge it by then; ConnectionResetError when the client has gone.
        Raises: TokenError for a token that is not even to be shown to STS.
        """
        parsed = parse_proxy_token(token, region=self._region.name, hosts=self._region.sts_hosts, now=time.time())

        def judge(principal: Principal) -> None:
            if not self.policy.allows(principal, user):
                raise TokenError(
                    Reason.PRINCIPAL,
                    f'{principal.arn} may not log in as "{user}": no rule names this user together with'
                    f" {principal.canonical}",
                )

        key = hashlib.sha256(token).digest()
        return self._questions.ask(key, parsed.expires_at, lambda: self.sts.ask(parsed), client, deadline, judge)

    async def close(self) -> None:
        """Give up what is under way, and close connections."""
        await self._questions.close()
        await self.sts.close()


def _policy(settings: IamSettings) -> Policy:
    return Policy((PrincipalPattern.parse(rule.principal), rule.users) for rule in settings.rules)


def _asks(settings: IamSettings) -> dict[str, object]:
    """What decides how tokens are read and STS is asked."""
    return settings.model_dump(exclude={"rules", "rds_users", "rds_logins_per_second"})
