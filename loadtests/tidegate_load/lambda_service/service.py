"""The service as a whole: the zygote, the functions' environments, and the HTTP front."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from .function import ConfigurationError, Function
from .invocation import Invocation
from .runtime_api import RuntimeApi
from .scheduler import Outcome, Scheduler
from .spawner import Spawner

# Per concurrent invocation: the invoker's connection, the Runtime API's listening socket and its connection,
# and the log stream; and what the service itself needs.
_FILES_PER_ENVIRONMENT = 4
_OWN_FILES = 64

_BACKLOG = 2048
STARTS_PER_CPU = 16


class LambdaService:
    """A Lambda service on one machine; use it as an async context manager.

    Parameters
    - `functions`: what can be invoked; their `environment` must be the same for all.
    - `fresh`: start new interpreters, for true cold starts, instead of forking a warm one.
    - `interpreter`: which one, if not this; it must have awslambdaric. Implies `fresh`.
    - `host`, `port`: where the Invoke API listens; port 0 takes a free one.
    - `log_dir`: gets one folder per function and in it one file per environment. By default a temporary
      folder that is removed at the end.
    - `starts`: environments that may be in INIT at once; by default 16 per CPU.
    """

    def __init__(
        self,
        functions: Iterable[Function],
        *,
        fresh: bool = False,
        interpreter: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        log_dir: Path | None = None,
        starts: int | None = None,
    ) -> None:
        self.functions: dict[str, Function] = {}
        for function in functions:
            if function.name in self.functions:
                raise ConfigurationError(f"function {function.name} is defined twice")
            self.functions[function.name] = function
        if not self.functions:
            raise ConfigurationError("no function: name at least one")
        variables = [function.base_variables() for function in self.functions.values()]
        if any(other != variables[0] for other in variables):
            raise ConfigurationError("all functions of one service have the same environment variables")
        self._interpreter = str(interpreter) if interpreter else sys.executable if fresh else None
        self._host = host
        self._port = port
        self._temporary_logs = log_dir is None
        self._log_dir = log_dir
        self._starts = asyncio.Semaphore(starts or STARTS_PER_CPU * (os.cpu_count() or 1))
        self._schedulers: dict[str, Scheduler] = {}
        self._spawner: Spawner | None = None
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        """The URL for boto3's `endpoint_url`."""
        assert self._runner is not None, "the service is not running"
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def died(self) -> asyncio.Future[None]:
        """Done when the process that forks environments has gone; without it nothing can be invoked."""
        assert self._spawner is not None, "the service is not running"
        return self._spawner.died

    async def start(self) -> Self:
        """Start. Raises: ConfigurationError (also for a port in use), SpawnError."""
        _raise_open_files(sum(function.concurrency for function in self.functions.values()))
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self) -> None:
        from .invoke_api import InvokeApi

        if self._log_dir is None:
            self._log_dir = Path(tempfile.mkdtemp(prefix="tidegate-lambda-"))
        base = next(iter(self.functions.values())).base_variables()
        self._spawner = Spawner(interpreter=self._interpreter, variables=base)
        await self._spawner.start()
        runtime_api = RuntimeApi()
        for name, function in self.functions.items():
            folder = self._log_dir / name
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(f"log-dir: cannot create {folder}: {error.strerror}") from None
            self._schedulers[name] = Scheduler(function, self._spawner, runtime_api, self._starts, folder)
        await asyncio.gather(*(scheduler.provision() for scheduler in self._schedulers.values()))
        self._runner = web.AppRunner(InvokeApi(self).application(), access_log=None, shutdown_timeout=2)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigurationError(
                f"cannot listen on {self._host} port {self._port}: {reason}; choose another --port, or 0 for a free one"
            ) from None

    async def close(self) -> None:
        """End every environment, answer what was running, and stop. Safe to call twice."""
        if self._spawner is not None and not self._spawner.died.done():
            await asyncio.gather(*(scheduler.shut_down() for scheduler in self._schedulers.values()))
        if self._spawner is not None:
            await self._spawner.close()
        for scheduler in self._schedulers.values():
            await scheduler.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._temporary_logs and self._log_dir is not None:
            shutil.rmtree(self._log_dir, ignore_errors=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def invocation(self, name: str, payload: bytes) -> Invocation:
        """A new invocation of function `name` with an event as JSON."""
        return Invocation(payload, self.functions[name].arn, asyncio.get_running_loop().create_future())

    async def invoke(self, name: str, invocation: Invocation) -> Outcome:
        """Run an invocation and wait for its answer. Raises: ThrottledError, SpawnError, OSError."""
        return await self._schedulers[name].invoke(invocation)

    def submit(self, name: str, invocation: Invocation) -> None:
        """Run an invocation whose answer nobody waits for, as soon as the concurrency limit allows."""
        self._schedulers[name].submit(invocation)

    def stats(self) -> dict[str, dict[str, int]]:
        """Counts per function, see `Scheduler.stats`."""
        return {name: scheduler.stats() for name, scheduler in self._schedulers.items()}


def _raise_open_files(concurrency: int) -> None:
    needed = concurrency * _FILES_PER_ENVIRONMENT + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < needed:
        possible = max(0, hard - _OWN_FILES) // _FILES_PER_ENVIRONMENT
        raise ConfigurationError(
            f"{concurrency} concurrent invocations need {needed} open files and the limit is {hard}: "
            f"lower --concurrency (to {possible} over all functions) or raise the hard limit (ulimit -Hn)"
        )
    if soft != unlimited and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == unlimited else hard, hard))
