"""Users that the database itself knows: their verifiers by `auth_query`, kept for a short time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol import decode
from tidegate_proxy.protocol.scram import MAX_ITERATIONS, MIN_ITERATIONS, ScramVerifier

logger = logging.getLogger(__name__)

MAX_USERS = 10_000
"""Users whose answers are kept; about 5 MB."""

USABLE = 900.0
"""Seconds for which an answer is good while the database gives no newer one: as long as RDS takes for a failover many
times over, and as an IAM token; who has lost access shall not keep it for as long as `auth_query` fails."""

_SHORTEST_INTERVAL = 0.5

_NOT_IN_THIS_ENCODING = ("22021", "22P05")
"""character_not_in_repertoire and untranslatable_character ("PostgreSQL Error Codes"): nobody has such a name there."""

_PREPARE = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false), "
    "pg_catalog.current_setting('scram_iterations', true)"
)


@dataclass(frozen=True, slots=True)
class _Answer:
    verifier: ScramVerifier | None
    asked: float


class AuthQuery:
    """One database's users.

    Parameters: `name`, of the entry in `databases`, for messages; `query`, with $1 for the user; `keep`, seconds for
    which an answer is used; `run`, which runs SQL as the authentication user and may raise ProxyError.
    """

    def __init__(self, name: str, query: str, keep: float, run: Callable[[str], Awaitable[InternalQuery]]) -> None:
        self.name = name
        self.queries = 0
        """How often the database was asked."""
        self.failures = 0
        """How often it did not answer."""
        self.last_error: ProxyError | None = None
        """Why the latest query failed; None if it did not."""
        self.iterations = MIN_ITERATIONS
        """`scram_iterations` of the server, with which it makes verifiers."""
        self._query = query
        self._keep = keep
        self._run = run
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[ScramVerifier | None]] = {}
        self._told: set[str] = set()

    async def verifier(self, user: str) -> ScramVerifier | None:
        """The user's verifier, None for nobody or a user that can't log in by SCRAM. Raises: ProxyError."""
        known = self._answers.get(user)
        if known is not None and asyncio.get_running_loop().time() - known.asked < self._keep:
            return known.verifier
        return await self._ask_once(user)

    def known(self, user: str) -> ScramVerifier | None:
        """The user's verifier as it was when last asked for, at most USABLE ago."""
        known = self._answers.get(user)
        recent = known is not None and asyncio.get_running_loop().time() - known.asked < USABLE
        return known.verifier if known is not None and recent else None

    async def newer(self, user: str) -> ScramVerifier | None:
        """The user's verifier, asked for anew unless that was done just now. Raises: ProxyError."""
        known = self._answers.get(user)
        if known is not None and asyncio.get_running_loop().time() - known.asked < _SHORTEST_INTERVAL:
            return known.verifier
        return await self._ask_once(user)

    async def _ask_once(self, user: str) -> ScramVerifier | None:
        task = self._asking.get(user)
        if task is None:
            task = self._asking[user] = asyncio.create_task(self._ask(user))
            task.add_done_callback(lambda done: self._asked(user, done))
        # Whoever gives up waiting does not stop it for the others.
        return await asyncio.shield(task)

    def _asked(self, user: str, task: asyncio.Task[ScramVerifier | None]) -> None:
        del self._asking[user]
        if not task.cancelled():
            task.exception()  # those who waited may be gone

    async def _ask(self, user: str) -> ScramVerifier | None:
        self.queries += 1
        asked = asyncio.get_running_loop().time()
        # As hexadecimal digits no name needs quoting, whatever the session's settings are.
        name = f"pg_catalog.convert_from(pg_catalog.decode('{user.encode().hex()}', 'hex'), 'UTF8')"
        try:
            result = await self._run(f"{_PREPARE}; {self._query.replace('$1', name)}")
            if result.error is not None and result.error.get("C") not in _NOT_IN_THIS_ENCODING:
                raise decode.error_from_fields(result.error)
        except ProxyError as error:
            self.failures += 1
            if self.last_error is None or str(self.last_error) != str(error):
                logger.error("databases.%s: auth_query failed: %s", self.name, error)
            self.last_error = error
            raise
        if self.last_error is not None:
            logger.info("databases.%s: auth_query works again", self.name)
            self.last_error = None
        self._see_iterations(result.rows)
        verifier = self._read(user, result)
        self._answers[user] = _Answer(verifier, asked)
        self._answers.move_to_end(user)
        while len(self._answers) > MAX_USERS:
            self._answers.popitem(last=False)
        return verifier

    def _see_iterations(self, rows: list[list[bytes | None]]) -> None:
        value = rows[0][1] if rows and len(rows[0]) == 2 else None
        if value is not None and value.isdigit() and MIN_ITERATIONS <= int(value) <= MAX_ITERATIONS:
            self.iterations = int(value)

    def _read(self, user: str, result: InternalQuery) -> ScramVerifier | None:
        if result.error is not None:  # a name that the server's encoding does not have
            return None
        rows = result.rows[1:]
        if len(rows) > 1:
            self._tell(user, "auth_query returns more than one row: it must return one for each user at most")
            return None
        value = rows[0][-1] if rows and rows[0] else None
        if value is None:
            return None
        if value.startswith(b"md5"):
            self._tell(
                user,
                "the server keeps an MD5 hash of the password, with which nobody can log in by SCRAM-SHA-256: set "
                "password_encryption = 'scram-sha-256' there, then set the user's password again",
            )
            return None
        try:
            return ScramVerifier.parse(value.decode("ascii", "replace"))
        except ValueError as error:
            self._tell(user, f"the last column of auth_query {error}")
            return None

    def _tell(self, user: str, what: str) -> None:
        if len(self._told) < MAX_USERS and user not in self._told:
            self._told.add(user)
            logger.error('databases.%s: user "%s" cannot log in: %s', self.name, user, what)
