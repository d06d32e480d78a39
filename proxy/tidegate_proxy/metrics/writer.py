"""Writes the metrics for CloudWatch on standard output, once in a period."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tidegate_proxy.metrics.emf import EmfLines, Names
from tidegate_proxy.metrics.readings import now_in_milliseconds, read

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)

_one_thread = threading.Lock()


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
                with _faults_logged():
                    await asyncio.to_thread(_write, self._text(), self._turns)
        finally:
            with _faults_logged():
                _write(self._text(), self._turns)

    def _text(self) -> str:
        lines = self._lines.lines(read(self._proxy), now_in_milliseconds())
        return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def _faults_logged() -> Iterator[None]:
    """A fault costs the metrics of one period, and nothing else."""
    try:
        yield
    except OSError as error:
        logger.error("the metrics for CloudWatch cannot be written on standard output: %s", error.strerror)
    except Exception:
        logger.exception("the metrics for CloudWatch: a fault of the proxy")


def _write(text: str, turns: int | None) -> None:
    """Parameters: `turns`, a file which is locked by the worker whose turn it is."""
    # What is longer than PIPE_BUF, 4 KB, would get mixed with what others write at the same time: pipe(7). The file's
    # lock is a process's: it does not keep the last metrics from the thread that still writes those of a period.
    with _one_thread:
        if turns is not None:
            fcntl.lockf(turns, fcntl.LOCK_EX)
        try:
            # By no buffer, which would keep what cannot be written, and make a failure of the process's end.
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(sys.stdout.fileno(), rest) :]
        finally:
            if turns is not None:
                fcntl.lockf(turns, fcntl.LOCK_UN)
