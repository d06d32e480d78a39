"""Asking STS who signed a token: at the configured endpoint and nowhere else, with few connections that are kept."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter

import aiohttp
from yarl import URL

from tidegate_proxy import __version__
from tidegate_proxy.identity.iam.answer import MAX_ANSWER, TryAgain, read_answer
from tidegate_proxy.identity.iam.policy import Principal
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.token import PROXY_HEADER, ProxyToken
from tidegate_proxy.metrics.histogram import add

_KEPT = 20.0
"""Seconds that an unused connection is kept: AWS's own end closes it somewhat later."""


class Sts:
    """The STS endpoint of the proxy's region. Used within one event loop; `close` in the end.

    Parameters
    - `endpoint`: `https://HOST`.
    - `proxy_id`: sent with each request, as the header that the client has signed.
    - `connections`: as many are kept as there may be requests at a time. `timeout`: seconds for one.

    For metrics: `requests`, counted by HTTP status or kind of failure; `latencies`, their durations (see
    `core.statistics`), and `seconds`, the sum of them.
    """

    def __init__(self, endpoint: str, *, proxy_id: str, connections: int, timeout: float) -> None:
        self.requests: Counter[str] = Counter()
        self.seconds = 0.0
        self.latencies: list[int] = []
        self._endpoint = endpoint
        self._headers = {
            PROXY_HEADER: proxy_id,
            "Accept": "application/json",
            "User-Agent": f"tidegate-proxy/{__version__}",
        }
        self._connections = connections
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        # Reads the authorities' files: before the first client waits for it.
        self._tls = ssl.create_default_context()

    async def ask(self, token: ProxyToken) -> Principal:
        """Who signed the token, by one request, which takes `timeout` at most.

        Raises: TokenError; TryAgain.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        outcome = "cancelled"
        try:
            status, body = await self._get(token)
            outcome = str(status)
        except TimeoutError:
            outcome = "timeout"
            raise TryAgain(f"STS did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            outcome = "connection"
            # Errors of answers have the request in their text, and with it the token.
            why = str(error) if isinstance(error, (aiohttp.ClientConnectorError, OSError)) else type(error).__name__
            raise TryAgain(
                f"no connection to STS ({self._endpoint}): {why}: check sts_endpoint, and the route, security "
                "group or VPC endpoint to it"
            ) from None
        finally:
            took = loop.time() - started
            self.requests[outcome] += 1
            self.seconds += took
            add(self.latencies, took)
        return read_answer(status, body)

    async def _get(self, token: ProxyToken) -> tuple[int, bytes]:
        if self._session is None:
            self._session = self._open_session()
        # `encoded`, or what the client has signed would be encoded in yarl's own way.
        url = URL(f"{self._endpoint}/?{token.query}", encoded=True)
        headers = {"Host": token.host, **self._headers}
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            try:
                await response.content.readexactly(MAX_ANSWER + 1)
            except asyncio.IncompleteReadError as end:
                return response.status, end.partial
            response.close()
            raise TokenError(Reason.STS_ANSWER, f"the answer has more than {MAX_ANSWER} bytes")

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEPT, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            # What is packed could be larger than it looks.
            auto_decompress=False,
            skip_auto_headers=["Accept-Encoding"],
        )

    async def close(self) -> None:
        """Close the connections that are kept."""
        if self._session is not None:
            await self._session.close()
