"""What to log in with now: a password, a secret's, or a token; cached while it is valid."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Protocol

from . import tls
from .config import Config
from .errors import ConfigurationError
from .settings import PASSWORD, SECRET, TIDEGATE_IAM

EXPIRY_MARGIN = 60.0
"""Seconds before a token ends from which on it is not used any more: clocks differ, and connecting takes time."""


class PasswordSource(Protocol):
    """Knows what to log in with. One per `Database`; not for several threads at once."""

    def complete(self, deadline: float | None = None) -> Config:
        """The configuration to connect with now: `password` filled in and, from a secret, host, port, database
        and user where no setting says them. Ask before every connect: a rotation may change the user, too.

        Parameters: `deadline`, on time.monotonic()'s clock; None for no limit but each request's own.
        Raises: PasswordUnavailable; ConfigurationError, where the secret leaves a setting open.
        """
        ...

    def password(self, deadline: float | None = None) -> str | None:
        """`complete(deadline).password`."""
        ...

    def rejected(self) -> bool:
        """The server refused what was handed out last (SQLSTATE 28000 or 28P01).

        Returns: True if that came from the cache, and a fresh one may be tried, once; False if it was fresh.
        """
        ...

    def forget(self) -> None:
        """Drop what is cached: the environment was restored from a snapshot, and time has passed."""
        ...


class _Static:
    """A password from the configuration, or none at all."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def complete(self, deadline: float | None = None) -> Config:
        return self._config

    def password(self, deadline: float | None = None) -> str | None:
        return self._config.password

    def rejected(self) -> bool:
        return False

    def forget(self) -> None:
        pass


class _Cached:
    """What has to be fetched or signed, kept until it expires or is refused."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._kept: Config | None = None
        # On the wall clock, as the monotonic one may stand still while Lambda has the environment frozen.
        self._expires = 0.0
        self._from_cache = False
        self._refused = False

    def complete(self, deadline: float | None = None) -> Config:
        if self._kept is not None and time.time() < self._expires:
            self._from_cache = True
            return self._kept
        self._from_cache = False
        self._kept = None
        completed, self._expires = self._fetch(deadline, fresh=self._refused)
        self._kept = completed
        self._refused = False
        return completed

    def password(self, deadline: float | None = None) -> str | None:
        return self.complete(deadline).password

    def rejected(self) -> bool:
        self._kept = None
        self._refused = True
        return self._from_cache

    def forget(self) -> None:
        self._kept = None

    def _fetch(self, deadline: float | None, *, fresh: bool) -> tuple[Config, float]:
        """Returns: the complete configuration, and until when it may be used, on time.time()'s clock."""
        raise NotImplementedError


class _Token(_Cached):
    def _fetch(self, deadline: float | None, *, fresh: bool) -> tuple[Config, float]:
        from . import auth, credentials

        config = self._config
        signer = credentials.load(os.environ, deadline)
        region = config.region or ""
        now = time.time()
        if config.auth == TIDEGATE_IAM:
            token = auth.generate_token(config.proxy_id or config.host, region, credentials=signer, now=now)
        else:
            token = auth.generate_rds_token(config.host, config.port, config.user, region, credentials=signer, now=now)
        expires = now + auth.TOKEN_LIFE
        if signer.expires is not None:
            expires = min(expires, signer.expires)
        return config._replace(password=token), expires - EXPIRY_MARGIN


class _Secret(_Cached):
    def _fetch(self, deadline: float | None, *, fresh: bool) -> tuple[Config, float]:
        from . import secrets

        config = self._config
        arn = config.secret_arn or ""
        secret = secrets.read(arn, deadline, fresh=fresh)
        completed = config._replace(
            host=config.host or secret.host or "",
            port=config.port or secret.port or 5432,
            dbname=config.dbname or secret.dbname or "",
            user=config.user or secret.username,
            password=secret.password,
        )
        for name in ("host", "dbname"):
            if not getattr(completed, name):
                raise ConfigurationError(
                    f"no {name} is configured, and the secret {arn} has none either: set TIDEGATE_{name.upper()}"
                )
        if not config.host:
            roots = tls.root_file(completed.host, config.sslmode, config.sslrootcert, config.region)
            completed = completed._replace(sslrootcert=roots)
        return completed, float("inf")


def password_source(config: Config) -> PasswordSource:
    """The source that `config.auth` asks for; it reads and signs nothing before it is asked."""
    if config.auth == PASSWORD:
        return _Static(config)
    return _Secret(config) if config.auth == SECRET else _Token(config)


def preload(config: Config) -> None:
    """Import what the configuration's source will need, so that a snapshot has it and no restore waits for it."""
    if config.auth == SECRET:
        from . import http

        with contextlib.suppress(ImportError):
            import boto3  # noqa: F401
    elif config.auth != PASSWORD:
        from . import auth, http  # noqa: F401
