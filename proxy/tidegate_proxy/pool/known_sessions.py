"""Sessions as clients begin them: what a server reports of parameters, and how one set of them becomes another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.errors import ProxyError, ShutdownError
from tidegate_proxy.pool.session import changes
from tidegate_proxy.protocol import decode

if TYPE_CHECKING:
    from tidegate_proxy.pool.opening import OpeningPool

MAX_SESSIONS = 1000
"""Different sets of session parameters whose effect is remembered."""

_ATTEMPTS = 3
"""How often a session's parameters are tried anew when the server connection is lost: they might be what breaks it."""


class KnownSession:
    """A session as clients begin it, the same object for all that ask for the same.

    Parameters: `parameters`, as the client has asked for them; `told`, each ParameterStatus.
    """

    __slots__ = ("parameters", "told", "welcomes")

    def __init__(self, parameters: dict[str, str], told: dict[bytes, bytes]) -> None:
        self.parameters = parameters
        self.told = told
        # What clients in this session are greeted with, by pool mode.
        self.welcomes: dict[str, bytes] = {}


class KnownSessions:
    """Those of a pool's clients."""

    def __init__(self, pool: OpeningPool) -> None:
        self._pool = pool
        self._known: dict[tuple[tuple[str, str], ...], KnownSession] = {}
        self._welcome: dict[bytes, bytes] = {}

    def welcomed(self, reported: Mapping[bytes, bytes]) -> None:
        """What a server reports at a login: if that is not as before, what is remembered is out of date."""
        if reported != self._welcome:
            self._welcome = dict(reported)
            self._known.clear()

    def get(self, session: dict[str, str]) -> KnownSession | None:
        """What `begin` would return, if nobody need be asked."""
        return self._known.get(tuple(sorted(session.items())))

    async def begin(self, session: dict[str, str]) -> KnownSession:
        """Begin a session with parameters that a client asked for at its login.

        The server itself is asked, once for each different set, what it reports then.
        Raises: TargetRefusedError when it does not accept one; what `acquire` may fail with.
        """
        key = tuple(sorted(session.items()))
        known = self._known.get(key)
        if known is not None:
            return known
        attempts = _ATTEMPTS
        while True:
            server = await self._pool.borrow()
            try:
                reported = await self._try(server, session)
            except BaseException as error:
                lost = server.closing
                # Whatever state it is in, nobody else shall find out.
                server.fail(ShutdownError())
                if lost and isinstance(error, ProxyError) and attempts > 0:
                    # The server has gone away meanwhile, and nothing was done that the next one could not do again.
                    attempts -= 1
                    continue
                raise
            if reported is not None:
                self._pool.server_released(server)
                break
            # It has a parameter of an earlier client that does not go away.
            server.fail(ShutdownError())
        while len(self._known) >= MAX_SESSIONS:
            del self._known[next(iter(self._known))]
        known = self._known[key] = KnownSession(session, reported)
        return known

    async def _try(self, server: ServerConnection, session: dict[str, str]) -> dict[bytes, bytes] | None:
        """Give the server these parameters, see what it reports then, and take them away again.

        Returns: None when it was not clean before. Raises: TargetRefusedError for parameters that it does not accept.
        """
        if server.applied:
            result = await server.run(self.changes(server.applied, {}))
            if result.error is not None:
                return None
            server.applied = {}
        if not session:
            return dict(server.reported)
        result = await server.run(changes({}, session))
        if result.error is not None:
            raise decode.error_from_fields(result.error)
        known = dict(server.reported)
        # What could not be taken away would stay with the clients that come after.
        result = await server.run(self.changes(session, {}))
        if result.error is not None:
            raise decode.error_from_fields(result.error)
        return known

    def changes(self, current: Mapping[str, str], wanted: Mapping[str, str]) -> str:
        """SQL that turns one set of session parameters into another."""
        if self._pool.limits.init_query is None or not current:
            return changes(current, wanted)
        # RESET goes back to before it.
        return ";".join(filter(None, (changes(current, {}), self._pool.limits.init_query, changes({}, wanted))))
