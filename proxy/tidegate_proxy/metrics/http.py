"""The proxy's HTTP server: /healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.metrics.prometheus import CONTENT_TYPE_LATEST, Exposition
from tidegate_proxy.metrics.readings import read
from tidegate_proxy.metrics.target_health import target_health
from tidegate_proxy.settings import ConfigurationError
from tidegate_proxy.targets.health import TargetState

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)

_LOGIN_TIMEOUT = 4.0
"""Seconds that /readyz waits for a login: load balancers wait for five."""


class HttpServer:
    """Parameters: the `proxy`, whose settings say where to listen."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._exposition = Exposition(lambda: read(proxy))
        self._login: asyncio.Task[str | None] | None = None
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
        site = web.TCPSite(self._runner, host, port, shutdown_timeout=1)
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
        if self._login is not None:
            self._login.cancel()
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        why_not = await self._why_not_ready()
        return web.Response(text=f"{why_not or 'ok'}\n", status=503 if why_not else 200)

    async def _why_not_ready(self) -> str | None:
        if self._proxy.draining:
            return "draining"
        targets = target_health(self._proxy)
        if any(target.state is TargetState.AVAILABLE for target in targets):
            return None
        if self._login is None or self._login.done():
            # One at a time, however many ask; it goes on when they give up.
            self._login = asyncio.get_running_loop().create_task(self._try_login())
        try:
            return await asyncio.wait_for(asyncio.shield(self._login), _LOGIN_TIMEOUT)
        except TimeoutError:
            return "no target answers"

    async def _try_login(self) -> str | None:
        """Log in to the first target for which a password is known. Returns: why that was not possible."""
        for name in self._proxy.settings.databases:
            for user in self._proxy.settings.users:
                if name == "*":
                    continue
                try:
                    await self._proxy.pool(name, user).begin_session({})
                except ProxyError as error:
                    logger.info("not ready: no login to database %s as %s: %s", name, user, error)
                    return "no login to a target is possible"
                return None
        # Users and databases are known only when clients come: it is ready for them.
        return None

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._exposition.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
