"""Keeps the certificate that clients are shown up to date, for as long as the proxy runs."""

from __future__ import annotations

import asyncio
import logging

from tidegate_proxy.certificates.pair import CertificateError, Pair, now
from tidegate_proxy.certificates.sources import Source, source_of
from tidegate_proxy.credentials.aws import Aws
from tidegate_proxy.settings import ConfigurationError, Settings
from tidegate_proxy.tls import ServerTLS

logger = logging.getLogger(__name__)

_FIRST_RETRY = 1.0


class CertificateKeeper:
    """Reads the certificate at the start, on request, and every `client_tls_refresh` seconds.

    A changed one is shown to clients that come from then on; those that are there keep their sessions. One that can't
    be used is logged and changes nothing. Parameters: `settings`; `aws`, for secrets.
    Raises: ConfigurationError when files that are needed at the start can't be used. A secret that can't be read is no
    such error: the proxy serves what it can, and goes on trying.
    """

    def __init__(self, settings: Settings, aws: Aws) -> None:
        self.current: ServerTLS | None = None
        """What clients are shown; None while they get no TLS."""
        self._refresh = settings.client_tls_refresh
        self._source = source_of(settings, aws)
        self._pair: Pair | None = None
        self._asked = asyncio.Event()
        self._said = ""
        self._retry = _FIRST_RETRY
        if self._source is not None and not self._source.remote:
            try:
                self._use(self._source.read())
            except CertificateError as error:
                raise ConfigurationError(f"{self._source.name}: {error}") from None

    @property
    def concern(self) -> tuple[int, str] | None:
        """What an operator should know of the certificate's dates: level and sentence; see `Pair.concern`."""
        concern = self._pair.concern(now()) if self._pair is not None else None
        return concern and (concern[0], f"{self._name}: the certificate {concern[1]}")

    @property
    def days_left(self) -> float | None:
        """Days until clients that verify the certificate fail; None while clients are shown none."""
        return self._pair.days_left(now()) if self._pair is not None else None

    @property
    def _name(self) -> str:
        return self._source.name if self._source is not None else ""

    async def start(self) -> None:
        """Have a certificate before the first client comes, if that is possible."""
        if self._pair is not None:
            self._describe()
        elif self._source is not None:
            await self._read(self._source)
        self._look_at_dates()

    def reload(self) -> None:
        """Look for a new certificate now."""
        self._asked.set()

    async def watch(self) -> None:
        """Look for a new certificate on schedule, for ever."""
        while self._source is not None:
            try:
                async with asyncio.timeout(self._delay()):
                    await self._asked.wait()
                self._said = ""  # whoever asks wants an answer
            except TimeoutError:
                pass
            self._asked.clear()
            await self._read(self._source)
            self._look_at_dates()

    def _delay(self) -> float:
        if self._pair is not None:
            return self._refresh
        self._retry = min(2 * self._retry, self._refresh)
        return self._retry

    async def _read(self, source: Source) -> None:
        try:
            pair = await asyncio.to_thread(source.read)
            if pair != self._pair:
                self._use(pair)
                self._describe()
                self._said = ""
        except CertificateError as error:
            instead = "clients get no TLS until it can" if self._pair is None else "the one before stays in use"
            self._say(logging.ERROR, f"{self._name}: the certificate cannot be used, {instead}: {error}")
        except Exception:
            # Whatever it is, a certificate that nobody looks at any more would be worse: it would expire.
            logger.exception("%s: a fault of the proxy while reading the certificate", self._name)

    def _use(self, pair: Pair) -> None:
        self.current = pair.server_tls()
        self._pair = pair

    def _describe(self) -> None:
        assert self._pair is not None
        logger.info("%s: clients are shown the certificate of %s", self._name, self._pair.describe())

    def _look_at_dates(self) -> None:
        if self.concern is not None:
            self._say(*self.concern)

    def _say(self, level: int, sentence: str) -> None:
        # Dates are said in days, so this is once a day.
        if sentence != self._said:
            self._said = sentence
            logger.log(level, "%s", sentence)
