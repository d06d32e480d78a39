"""The proxy's HTTP server: /healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from tidegate_proxy.metrics.prometheus import CONTENT_TYPE_LATEST, Exposition, of_workers
from tidegate_proxy.metrics.readings import read
from tidegate_proxy.settings import ConfigurationError

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)


class HttpServer:
    """Parameters: the `proxy`, whose settings say where to listen."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._exposition = Exposition(lambda: read(proxy))
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self) -> None:
        """Listen. Raises: ConfigurationError."""
        settings = self._proxy.settings
        host, port = settings.http_host or settings.listen_host, settings.http_port or 0
        await self._runner.setup()
        # Any of several workers answers, for all of them.
        site = web.TCPSite(self._runner, host, port, shutdown_timeout=1, reuse_port=settings.workers > 1)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigurationError(
                f"http_port: cannot listen on {host} port {port}: {error.strerror}: choose another one, or 0 for any"
            ) from None
        for address in self._runner.addresses:
            logger.info("HTTP (/healthz, /readyz, /metrics) is on %s port %d", address[0], address[1])

    async def stop(self) -> None:
        """Listen no longer."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        answer = await self._proxy.monitor.readiness.answer()
        return web.Response(text=f"{answer.text}\n", status=200 if answer.ready else 503)

    def own_metrics(self) -> bytes:
        """The metrics of this process."""
        return self._exposition.text()

    async def _metrics(self, request: web.Request) -> web.Response:
        text = self.own_metrics()
        if not self._proxy.siblings.alone:
            # A third of a second with thousands of samples.
            text = await asyncio.to_thread(of_workers, await self._proxy.siblings.metrics(text))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
