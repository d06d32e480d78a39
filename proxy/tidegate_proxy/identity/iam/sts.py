"""Asking STS who signed a token: at the configured endpoint and nowhere else, with few connections that are kept."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter

from tidegate_proxy import __version__
from tidegate_proxy.identity.iam.answer import MAX_ANSWER, TryAgain, read_answer
from tidegate_proxy.identity.iam.policy import Principal
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.token import PROXY_HEADER, ProxyToken
from tidegate_proxy.metrics.histogram import add
from tidegate_proxy.net.http_client import AnswerTooLongError, HttpClient

_KEPT = 20.0
"""Seconds that an unused connection is kept: AWS's own end closes it somewhat later."""


class Sts:
    """The STS endpoint of the proxy's region. Used within one event loop; `close` in the end.

    Parameters
    - `endpoint`: `https://HOST`.
    - `proxy_id`: sent with each request, as the header that the client has signed.
    - `timeout`: seconds for a request.

    There are as many connections as requests at a time, which are for the caller to limit.

    For metrics: `requests`, counted by HTTP status or kind of failure; `latencies`, their durations (see
    `core.statistics`), and `seconds`, the sum of them.
    """

    def __init__(self, endpoint: str, *, proxy_id: str, timeout: float) -> None:
        self.requests: Counter[str] = Counter()
        self.seconds = 0.0
        self.latencies: list[int] = []
        self._endpoint = endpoint
        self._headers = "".join(
            f"{name}: {value}\r\n"
            for name, value in (
                (PROXY_HEADER, proxy_id),
                ("Accept", "application/json"),
                ("User-Agent", f"tidegate-proxy/{__version__}"),
            )
        )
        self._timeout = timeout
        # The authorities' files are read now, before the first client waits for it.
        tls = ssl.create_default_context()
        self._client = HttpClient(endpoint, tls=tls, longest=MAX_ANSWER, keep=_KEPT)

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
        except OSError as error:
            outcome = "connection"
            raise TryAgain(
                f"no connection to STS ({self._endpoint}): {error}: check sts_endpoint, and the route, security "
                "group or VPC endpoint to it"
            ) from None
        finally:
            took = loop.time() - started
            self.requests[outcome] += 1
            self.seconds += took
            add(self.latencies, took)
        return read_answer(status, body)

    async def _get(self, token: ProxyToken) -> tuple[int, bytes]:
        # As it was signed: the query was checked, and is not encoded again.
        head = f"GET /?{token.query} HTTP/1.1\r\nHost: {token.host}\r\n{self._headers}\r\n"
        try:
            return await self._client.request(head.encode("ascii"), self._timeout)
        except AnswerTooLongError as error:
            raise TokenError(Reason.STS_ANSWER, str(error)) from None

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._client.close()
