"""What to log in with now: a password, a secret's, or a token; cached while it is valid."""

from __future__ import annotations

from typing import Protocol

from .config import Config
from .errors import TidegateError


class PasswordUnavailable(TidegateError):  # noqa: N818
    """Nothing to log in with could be had in time: no credentials, or a secret that cannot be read.

    What to do: the message names the resource and the remedy. It never shows a secret.
    """


class PasswordSource(Protocol):
    """Knows what to log in with. One per `Database`; not for several threads at once."""

    def complete(self, deadline: float | None = None) -> Config:
        """The configuration to connect with now: `password` filled in and, from a secret, host, port, database
        and user where nothing else says them. Ask before every connect: a rotation may change the user, too.

        Parameters: `deadline`, on time.monotonic()'s clock; None for no limit but each look-up's own.
        Raises: PasswordUnavailable.
        """
        ...

    def password(self, deadline: float | None = None) -> str | None:
        """`complete(deadline).password`. Raises: PasswordUnavailable."""
        ...

    def rejected(self) -> bool:
        """The server refused what was handed out last (SQLSTATE 28000 or 28P01).

        Returns: True if that came from the cache, and a fresh one may be tried, once; False if it was fresh.
        """
        ...


class StaticPassword:
    """A password from the configuration, or none at all."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def complete(self, deadline: float | None = None) -> Config:
        return self._config

    def password(self, deadline: float | None = None) -> str | None:
        return self._config.password

    def rejected(self) -> bool:
        return False


def password_source(config: Config) -> PasswordSource:
    """The source that `config.auth` asks for; reads nothing yet."""
    return StaticPassword(config)
