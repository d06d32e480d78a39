"""Writes the metrics for CloudWatch on standard output, once in a period."""

from __future__ import annotations

import asyncio
import fcntl
import sys
from typing import TYPE_CHECKING

from tidegate_proxy.metrics.emf import EmfLines, Names
from tidegate_proxy.metrics.readings import now_in_milliseconds, read

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy


class CloudWatchWriter:
    """Parameters: the `proxy`, whose settings say what the metrics are called and how often they are written."""

    def __init__(self, proxy: Proxy) -> None:
        settings = proxy.settings
        self._proxy = proxy
        names = Names(settings.cloudwatch_namespace, settings.proxy_name, settings.endpoint_name)
        self._lines = EmfLines(names)
        self._turns = proxy.siblings.output

    async def run(self) -> None:
        """Write until cancelled, and once more then: what the last moments have counted is not lost."""
        try:
            while True:
                await asyncio.sleep(self._proxy.settings.cloudwatch_period)
                await asyncio.to_thread(_write, self._text(), self._turns)
        finally:
            _write(self._text(), self._turns)

    def _text(self) -> str:
        lines = self._lines.lines(read(self._proxy), now_in_milliseconds())
        return "".join(f"{line}\n" for line in lines)


def _write(text: str, turns: int | None) -> None:
    """Parameters: `turns`, a file which is locked by the worker whose turn it is."""
    if turns is not None:
        # What is longer than PIPE_BUF, 4 KB, would get mixed with what others write at the same time: pipe(7).
        fcntl.lockf(turns, fcntl.LOCK_EX)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    finally:
        if turns is not None:
            fcntl.lockf(turns, fcntl.LOCK_UN)
