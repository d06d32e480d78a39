"""What watches the proxy while it serves: its vitals, the targets' availability, HTTP, metrics for CloudWatch."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tidegate_proxy.metrics.readiness import Readiness
from tidegate_proxy.metrics.target_health import target_health
from tidegate_proxy.metrics.vitals import Availability, Vitals

if TYPE_CHECKING:
    from tidegate_proxy.metrics.http import HttpServer
    from tidegate_proxy.proxy import Proxy


class Monitor:
    """Parameters: the `proxy`."""

    def __init__(self, proxy: Proxy) -> None:
        self.vitals = Vitals()
        self.availability = Availability()
        self.readiness = Readiness(proxy)
        self._proxy = proxy
        self._http: HttpServer | None = None
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch from now on. Raises: ConfigurationError when the HTTP port cannot be listened on."""
        self.vitals.start()
        if self._proxy.settings.http_port is not None:
            # Here, so that a proxy without HTTP does not load its libraries.
            from tidegate_proxy.metrics.http import HttpServer

            self._http = HttpServer(self._proxy)
            await self._http.start()
        if self._proxy.settings.cloudwatch_metrics:
            from tidegate_proxy.metrics.writer import CloudWatchWriter

            self._writer = asyncio.get_running_loop().create_task(CloudWatchWriter(self._proxy).run())

    def metrics(self) -> bytes:
        """This process's metrics in Prometheus's text format; nothing without an HTTP port."""
        return self._http.own_metrics() if self._http is not None else b""

    def tick(self) -> None:
        """Called every second."""
        self.availability.look(target_health(self._proxy))
        self.readiness.look()

    async def stop(self) -> None:
        """Watch no longer; the last metrics are written."""
        self.vitals.stop()
        await self.readiness.stop()
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        if self._http is not None:
            await self._http.stop()
