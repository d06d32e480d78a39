"""A token for the database: a presigned `rds-db:connect`, which only RDS can judge. It is tried as a server login."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from tidegate_proxy.credentials.provider import Credential, FixedCredential
from tidegate_proxy.errors import AuthenticationError, ProxyError, TargetRefusedError
from tidegate_proxy.identity.iam.answer import TryAgain
from tidegate_proxy.identity.iam.presigned import MAX_TOKEN, check_signing, split_query
from tidegate_proxy.identity.iam.questions import Client, Questions
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.pool.pool import Pool
from tidegate_proxy.settings import DatabaseSettings

_OWN = frozenset({"Action", "DBUser"})
_AT_ONCE = 20
"""Server logins with tokens that run at a time: RDS asks IAM for each, which takes some tens of milliseconds."""
_BUSY = "too many RDS tokens are waiting to be tried (rds_logins_per_second)"


@dataclass(frozen=True, slots=True)
class RdsToken:
    """A token that may be tried: `endpoint`, HOST:PORT; `expires_at`, seconds since the epoch."""

    endpoint: str
    expires_at: float


def parse_rds_token(token: bytes, *, user: str, endpoints: Collection[str], now: float) -> RdsToken:
    """Read a token, and check all that can be checked without asking the server.

    Parameters: `user`, as whom the client logs in; `endpoints`, HOST:PORT of the database's servers; `now`, seconds
    since the epoch.
    Raises: TokenError.
    """
    if len(token) > MAX_TOKEN:
        raise TokenError(Reason.TOO_LONG, f"it has {len(token)} bytes, and at most {MAX_TOKEN} are read")
    endpoint, mark, query = token.decode("ascii", errors="replace").partition("/?")
    if not mark or not re.fullmatch(r"[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}", endpoint):
        raise TokenError(Reason.NO_TOKEN, "the password is no token of this kind")
    parameters = split_query(query, _OWN)
    if parameters["Action"] != "connect":
        raise TokenError(Reason.ACTION, "the action is not connect")
    if parameters["DBUser"] != user:
        raise TokenError(Reason.USER, "it is signed for another database user")
    signed = check_signing(parameters, service="rds-db", headers="host", now=now)
    if endpoint not in endpoints:
        raise TokenError(
            Reason.HOST, f"it is signed for {endpoint}, and the database is configured as {', '.join(endpoints)}"
        )
    return RdsToken(endpoint, signed.expires_at)


class ClientTokens:
    """What the proxy logs in to a database with as a user for whom it knows nothing else: the latest token of a client.

    A CredentialProvider. All servers of a cluster take a token that is signed for one of its endpoints: RDS judges the
    token, and not the name by which it was reached.
    """

    def __init__(self, user: str) -> None:
        self.problem: str | None = None
        self._user = user
        self._latest: Credential | None = None
        self._expires_at = 0.0

    def keep(self, token: RdsToken, credential: Credential) -> None:
        """The server has accepted this one."""
        if token.expires_at > self._expires_at:
            self._expires_at = token.expires_at
            self._latest = credential

    async def attempts(self, host: str, port: int) -> AsyncGenerator[Credential, None]:
        """See CredentialProvider."""
        if self._latest is None or time.time() >= self._expires_at:
            raise AuthenticationError(
                f'the proxy has no valid RDS token of a client to log in to the target server as "{self._user}"',
                sqlstate="28000",
                hint="Connect again with a new token, or give the proxy credentials of its own for this user.",
            )
        yield self._latest

    def accepted(self, credential: Credential) -> None:
        """See CredentialProvider."""
        self.problem = None

    def refused(self, error: ProxyError) -> None:
        """See CredentialProvider."""
        self.problem = str(error)


@dataclass(frozen=True, slots=True)
class Attempt:
    """As whom and where a client wants to log in.

    - `user`, and `name` of the database, as the client named them; `database`, the settings of that.
    - `pool`, gives the pool, which is made if there is none: only for a token that may be tried.
    """

    user: str
    name: str
    database: DatabaseSettings
    pool: Callable[[], Pool]


class RdsLogins:
    """Tries tokens on servers, each once, and not too many in a second.

    Parameters: `per_second`, most server logins.
    """

    def __init__(self, per_second: int) -> None:
        self._questions: Questions[None] = Questions(
            _AT_ONCE, per_second=per_second, busy=partial(TryAgain, _BUSY, throttled=True)
        )
        # Kept for as long as a pool uses them.
        self._tokens: WeakValueDictionary[tuple[str, str], ClientTokens] = WeakValueDictionary()

    def set_rate(self, per_second: int) -> None:
        """Allow so many server logins a second from now on."""
        self._questions.set_rate(per_second)

    def tokens_of(self, database: str, user: str) -> ClientTokens:
        """The provider of the tokens of those who have logged in to this database as this user."""
        tokens = self._tokens.get((database, user))
        if tokens is None:
            tokens = self._tokens[database, user] = ClientTokens(user)
        return tokens

    async def verify(self, token: bytes, attempt: Attempt, client: Client, deadline: float) -> None:
        """Let the server judge a token. The server connection that this opens is the pool's from then on.

        Parameters: `deadline`, on the event loop's clock.
        Raises: TokenError; TryAgain when there were too many; ProxyError when the server could not judge it;
        ConnectionResetError when the client has gone.
        """
        endpoints = [f"{attempt.database.host}:{attempt.database.port}"]
        parsed = parse_rds_token(token, user=attempt.user, endpoints=endpoints, now=time.time())
        credential = Credential(attempt.user, token.decode("ascii"))
        # By database, too: each opens its server connections with tokens that it has seen.
        key = hashlib.sha256(token).digest() + attempt.name.encode()
        find = partial(self._try, credential, attempt)
        await self._questions.ask(key, parsed.expires_at, find, client, deadline)
        # The pool's own provider, also if the pool that was there when the token was tried has gone since.
        attempt.pool()
        self.tokens_of(attempt.name, attempt.user).keep(parsed, credential)

    async def _try(self, credential: Credential, attempt: Attempt) -> None:
        # Where the pool logs in as somebody else, a connection of the client's own user is not one of its kind.
        keep = attempt.database.user in (None, attempt.user)
        try:
            asked = await attempt.pool().open_as(FixedCredential(credential.user, credential.password), keep=keep)
        except (TargetRefusedError, AuthenticationError) as error:
            if error.sqlstate[:2] == "28":
                raise TokenError(Reason.REFUSED_BY_SERVER, f"the server says: {error}") from None
            raise
        if not asked:
            raise TokenError(
                Reason.NOT_CHECKED,
                f'the server let the proxy in as "{attempt.user}" without asking for a password, so it has judged '
                "nothing: it is no RDS, or its pg_hba.conf trusts this user",
            )

    async def close(self) -> None:
        """Give up what is under way."""
        await self._questions.close()
