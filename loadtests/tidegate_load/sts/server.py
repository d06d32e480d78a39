"""The stand-in's HTTP side: GetCallerIdentity in JSON and XML, slow, throttling and faulty on command."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from xml.sax.saxutils import escape

from aiohttp import web

from tidegate_load.loop_thread import LoopThread
from tidegate_load.sts.signature import Key, Refused, verify

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_REQUEST_ID = "01234567-89ab-cdef-0123-456789abcdef"

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StsApplication:
    """What the stand-in does with requests.

    Parameters: `keys` that it knows; `delay`, seconds before each answer.
    - `throttled`, how many of the next requests are answered with Throttling.
    - `fault`, answers everything in its place where it is not None.
    - `answers` counts what was answered: "ok", or the error's code; `at_once`, the most requests at a time; `hosts`
      counts Host headers; `connections`, how many there were.
    """

    def __init__(self, keys: Iterable[Key] = (), *, delay: float = 0.0) -> None:
        self.keys = {key.access_key: key for key in keys}
        self.delay = delay
        self.throttled = 0
        self.fault: Fault | None = None
        self.answers: Counter[str] = Counter()
        self.hosts: Counter[str] = Counter()
        self.at_once = 0
        self._present = 0
        self._seen: set[int] = set()

    @property
    def connections(self) -> int:
        """Different connections that requests came on."""
        return len(self._seen)

    def application(self) -> web.Application:
        """For aiohttp to run."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.hosts[request.headers.get("Host", "")] += 1
        self._seen.add(id(request.protocol))
        self._present += 1
        self.at_once = max(self.at_once, self._present)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            if self.fault is not None:
                self.answers["fault"] += 1
                return await self.fault(request)
            return self._judge(request)
        finally:
            self._present -= 1

    def _judge(self, request: web.Request) -> web.Response:
        in_json = "application/json" in request.headers.get("Accept", "")
        if self.throttled > 0:
            self.throttled -= 1
            return self._refusal(400, Refused("Throttling", "Rate exceeded"), in_json)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            if request.method != "GET" or request.path != "/" or request.query.get("Action") != "GetCallerIdentity":
                raise Refused("InvalidAction", "Only GET requests for GetCallerIdentity are answered here")
            key = verify(request.rel_url.raw_query_string, headers, self.keys, time.time())
        except Refused as error:
            return self._refusal(403, error, in_json)
        self.answers["ok"] += 1
        found = {"Account": key.account, "Arn": key.arn, "UserId": "AROAEXAMPLEEXAMPLE:session"}
        if in_json:
            return _json(
                200,
                {
                    "GetCallerIdentityResponse": {
                        "GetCallerIdentityResult": found,
                        "ResponseMetadata": {"RequestId": _REQUEST_ID},
                    }
                },
            )
        fields = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in found.items())
        return _xml(
            200,
            f'<GetCallerIdentityResponse xmlns="{_NAMESPACE}"><GetCallerIdentityResult>{fields}'
            f"</GetCallerIdentityResult><ResponseMetadata><RequestId>{_REQUEST_ID}</RequestId></ResponseMetadata>"
            "</GetCallerIdentityResponse>",
        )

    def _refusal(self, status: int, error: Refused, in_json: bool) -> web.Response:
        self.answers[error.code] += 1
        if in_json:
            body = {"Code": error.code, "Message": error.message, "Type": "Sender"}
            return _json(status, {"Error": body, "RequestId": _REQUEST_ID})
        return _xml(
            status,
            f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>Sender</Type><Code>{error.code}</Code>'
            f"<Message>{escape(error.message)}</Message></Error><RequestId>{_REQUEST_ID}</RequestId></ErrorResponse>",
        )


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def _xml(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/xml")


async def listen(
    application: StsApplication, host: str, port: int, tls: ssl.SSLContext | None = None
) -> tuple[web.AppRunner, int]:
    """Begin to serve; `port` 0 takes any. Returns: what to `cleanup()` in the end, and the port."""
    runner = web.AppRunner(application.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=tls).start()
    return runner, int(runner.addresses[0][1])


class StandInSts(LoopThread, StsApplication):
    """The stand-in on a loopback port, in a thread of its own, while entered. `url`: its endpoint.

    Parameters: as of StsApplication; `tls`, with a certificate for https.
    """

    def __init__(self, keys: Iterable[Key] = (), *, delay: float = 0.0, tls: ssl.SSLContext | None = None) -> None:
        LoopThread.__init__(self)
        StsApplication.__init__(self, keys, delay=delay)
        self._tls = tls
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """See LoopThread."""
        runner, port = await listen(self, "127.0.0.1", 0, self._tls)
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{port}"
        yield
        await runner.cleanup()
