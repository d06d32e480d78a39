"""A secret of Secrets Manager that holds a user and a password: read, kept, read again."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from dataclasses import dataclass, field
from typing import Any

from tidegate_proxy.credentials.aws import Aws, AwsError, SecretValue

logger = logging.getLogger(__name__)

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
SHORTEST_INTERVAL = 1.0
"""Seconds between two reads, however many logins fail: Secrets Manager's calls are paid for, and limited."""

_ROTATION_REFRESH = 15.0
"""Seconds between two reads while there is an AWSPENDING: soon it is the current one, and the old one is to end."""

_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_SHAPE = 'it must be JSON such as {"username": "app", "password": "..."}, as RDS makes it'


class SecretError(Exception):
    """A secret that can't be read or used. `str()` is for an operator: the secret's name, what is wrong, the remedy.

    `transient`: it may work later without anybody changing anything.
    """

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version: its staging label, its user, None where it names none, and its password."""

    stage: str
    user: str | None
    password: str = field(repr=False)


class Secret:
    """One secret, shared by all that need it.

    Parameters: `name`, its ARN or name; `refresh`, seconds after which `watch` reads it again.
    """

    def __init__(self, name: str, aws: Aws, refresh: float) -> None:
        self.name = name
        self.versions: tuple[SecretVersion, ...] = ()
        """The versions that were found when it was last read, by the order in which they should be tried."""
        self.error: SecretError | None = None
        """Why the last read failed; None if it did not."""
        self.reads = 0
        """How often it was read with success."""
        self.failures = 0
        """How often it was not."""
        self._aws = aws
        self._refresh = refresh
        self._reading: asyncio.Task[None] | None = None
        self._began = -SHORTEST_INTERVAL
        self._failures_in_a_row = 0
        self._not_before = 0.0

    async def current(self) -> tuple[SecretVersion, ...]:
        """The versions that are known; they are read if none is. Raises: SecretError."""
        if not self.versions:
            if self.error is not None and asyncio.get_running_loop().time() < self._not_before:
                raise self.error
            await self._read_once()
            if not self.versions:
                raise self.error or SecretError(f'secret "{self.name}" has no value')
        return self.versions

    async def newer_than(self, moment: float) -> tuple[SecretVersion, ...]:
        """The versions as a read finds them that began after `moment` (of the loop's clock).

        Whoever asks meanwhile shares one read, and reads keep SHORTEST_INTERVAL between them. Where it fails, or
        has failed and must not be repeated yet, the versions of before are returned.
        """
        loop = asyncio.get_running_loop()
        while self._began <= moment:
            pause = self._began + SHORTEST_INTERVAL - loop.time()
            if self._reading is None and self.error is not None and loop.time() < self._not_before:
                break
            if self._reading is not None or pause <= 0:
                await self._read_once()
            else:
                await asyncio.sleep(pause)
        return self.versions

    async def watch(self) -> None:
        """Read it now, on schedule, more often during a rotation, and after failures with growing pauses, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._read_once()
            # Not all proxies of a fleet at the same moment.
            due = self._began + self._refresh * random.uniform(0.9, 1)  # noqa: S311
            while (pause := self._due(due) - loop.time()) > 0:  # noqa: ASYNC110
                # What is due changes with every read, and those happen for others' sake too.
                await asyncio.sleep(min(pause, _ROTATION_REFRESH))

    def _due(self, scheduled: float) -> float:
        if self.error is not None:
            return self._not_before
        if any(version.stage == PENDING for version in self.versions):
            return min(scheduled, self._began + _ROTATION_REFRESH)
        return scheduled

    async def _read_once(self) -> None:
        if self._reading is None:
            self._began = asyncio.get_running_loop().time()
            self._reading = asyncio.create_task(self._read())
        # Whoever gives up waiting does not stop it for the others.
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        try:
            values = await self._aws.secret_values(self.name, (PENDING, CURRENT, PREVIOUS))
            versions = self._parse(values)
        except (AwsError, SecretError) as error:
            self._failed(SecretError(str(error), transient=error.transient))
        else:
            if self.error is not None:
                logger.info('secret "%s" can be read again', self.name)
            elif self.versions and versions[0] != self.versions[0]:
                logger.info('secret "%s" has a new value', self.name)
            self.reads += 1
            self.versions = versions
            self.error = None
            self._failures_in_a_row = 0
        finally:
            self._reading = None

    def _failed(self, error: SecretError) -> None:
        self.failures += 1
        self._failures_in_a_row += 1
        longest = min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(self._failures_in_a_row - 1, 10))
        self._not_before = asyncio.get_running_loop().time() + longest * random.uniform(0.5, 1)  # noqa: S311
        if self.error is None or str(error) != str(self.error):
            meanwhile = "; what was read before stays in use" if self.versions else ""
            logger.error("%s%s", error, meanwhile)
        self.error = error

    def _parse(self, values: dict[str, SecretValue]) -> tuple[SecretVersion, ...]:
        found = [self._version(CURRENT, values[CURRENT])]
        for stage in (PENDING, PREVIOUS):
            # After a rotation a label may stay with the version that is the current one too.
            if stage in values and values[stage].version not in {values[CURRENT].version}:
                try:
                    found.append(self._version(stage, values[stage]))
                except SecretError as error:
                    logger.warning("%s", error)
        return tuple(found)

    def _version(self, stage: str, value: SecretValue) -> SecretVersion:
        label = "" if stage == CURRENT else f", version {stage},"

        def wrong(what: str) -> SecretError:
            return SecretError(f'secret "{self.name}"{label} {what}')

        if value.text is None:
            raise wrong(f"is binary: {_SHAPE}")
        try:
            fields: Any = json.loads(value.text)
        except (ValueError, RecursionError):
            raise wrong(f"is not JSON: {_SHAPE}") from None
        if not isinstance(fields, dict):
            raise wrong(f"is not a JSON object: {_SHAPE}")
        user, password, engine = fields.get("username"), fields.get("password"), fields.get("engine")
        if not isinstance(password, str) or not password or "\0" in password:
            raise wrong(f'has no text in "password": {_SHAPE}')
        if user is not None and (not isinstance(user, str) or not user or "\0" in user):
            raise wrong(f'has something else than a name in "username": {_SHAPE}')
        try:
            f"{user}{password}".encode()
        except UnicodeEncodeError:
            # JSON can write one half of a surrogate pair. The error's own text would show it.
            raise wrong("has a character in its name or password that is no character of Unicode") from None
        if isinstance(engine, str) and "postgres" not in engine:
            raise wrong("is for a database of another engine than PostgreSQL: name the right secret")
        return SecretVersion(stage, user, password)
