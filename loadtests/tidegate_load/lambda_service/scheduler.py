"""The environments of one function: which of them runs an invocation, and when a new one is started."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from .environment import Environment
from .function import Function
from .invocation import Answer, Invocation
from .runtime_api import RuntimeApi
from .spawner import Spawner

_log = logging.getLogger(__name__)


class ThrottledError(Exception):
    """As many invocations as the concurrency limit allows are running."""


@dataclass(slots=True)
class Counts:
    """Totals since the service was started; `errors` are all answers that were function errors."""

    invocations: int = 0
    errors: int = 0
    throttles: int = 0
    timeouts: int = 0
    init_errors: int = 0
    cold_starts: int = 0
    peak_environments: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer and how it came about; `init_milliseconds` is None unless a new environment ran it."""

    answer: Answer
    cold_start: bool
    init_milliseconds: float | None


class Scheduler:
    """Runs the invocations of one function.

    Parameters
    - `starts`: bounds how many environments, of any function, are in INIT at once.
    - `log_folder`: where their log streams go.
    """

    def __init__(
        self,
        function: Function,
        spawner: Spawner,
        runtime_api: RuntimeApi,
        starts: asyncio.Semaphore,
        log_folder: Path,
    ) -> None:
        self.function = function
        self._spawner = spawner
        self._runtime_api = runtime_api
        self._starts = starts
        self._log_folder = log_folder
        self._counts = Counts()
        self._running = 0
        self._environments: set[Environment] = set()
        # In the order in which they became idle: the last is reused, so that the surplus can grow old.
        self._idle: dict[Environment, asyncio.TimerHandle] = {}
        self._events: deque[Invocation] = deque()
        self._tasks: set[asyncio.Task[Outcome]] = set()

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Run an invocation and wait for its answer; it runs to its end even if the caller is cancelled.

        Raises: ThrottledError, SpawnError, OSError.
        """
        if self._running >= self.function.concurrency:
            self._counts.throttles += 1
            raise ThrottledError
        return await asyncio.shield(self._begin(invocation))

    def submit(self, invocation: Invocation) -> None:
        """Queue an invocation whose answer nobody waits for."""
        self._events.append(invocation)
        self._run_events()

    def stats(self) -> dict[str, int]:
        """Totals, and how many environments there are now: starting ones count as busy."""
        present, idle = len(self._environments), len(self._idle)
        return asdict(self._counts) | {"environments": present, "idle": idle, "busy": present - idle}

    async def provision(self) -> None:
        """Start the environments that are to be there ahead of invocations. Raises: SpawnError, OSError."""
        for environment in await asyncio.gather(*(self._start(ahead=True) for _ in range(self.function.provisioned))):
            if environment.initialised.result() is None:
                self._rest(environment)
            else:
                _log.error("a provisioned environment of function %s failed in INIT", self.function.name)

    async def shut_down(self) -> None:
        """Where SIGTERM announces the end, send it to the idle environments, and wait until they are gone."""
        idle = list(self._idle) if self.function.extension else []
        for environment in idle:
            environment.shut_down()
        if idle:
            await asyncio.wait([environment.exited for environment in idle], timeout=5)

    async def close(self) -> None:
        """Forget what is queued and wait for what runs, which ends because the spawner is closed."""
        self._events.clear()
        for timer in self._idle.values():
            timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _execute(self, invocation: Invocation) -> Outcome:
        try:
            outcome = await self._run(invocation)
        finally:
            self._running -= 1
            self._run_events()
        self._counts.invocations += 1
        self._counts.errors += outcome.answer.failed
        self._counts.timeouts += outcome.answer.timed_out
        self._counts.init_errors += outcome.answer.init_failed
        return outcome

    async def _run(self, invocation: Invocation) -> Outcome:
        while True:
            cold_start = not self._idle
            environment = await self._start() if cold_start else self._reuse()
            failure = environment.initialised.result()
            if failure is not None:
                await environment.exited
                return Outcome(failure, cold_start=True, init_milliseconds=None)
            if not environment.alive():
                continue
            self._take(environment)
            environment.run(invocation)
            answer = await invocation.done
            environment.taken -= 1
            if environment.alive():
                self._rest(environment)
            else:
                await environment.exited
            if answer is not None:
                return Outcome(answer, cold_start, environment.init_milliseconds if cold_start else None)
            # It died between two invocations and had not seen this one: as if it had never been there.
            invocation.done = asyncio.get_running_loop().create_future()

    async def _start(self, *, ahead: bool = False) -> Environment:
        async with self._starts:
            environment = Environment(self.function, self._spawner, self._log_folder, ahead=ahead)
            self._runtime_api.environments[environment.port] = environment
            self._environments.add(environment)
            self._counts.peak_environments = max(self._counts.peak_environments, len(self._environments))
            try:
                await environment.start(self._runtime_api.protocols)
            except BaseException:
                self._forget(environment)
                raise
            self._counts.cold_starts += 1
            environment.exited.add_done_callback(lambda _: self._forget(environment))
            await environment.initialised
            return environment

    def _reuse(self) -> Environment:
        environment, timer = self._idle.popitem()
        timer.cancel()
        return environment

    def _take(self, environment: Environment) -> None:
        environment.taken += 1
        if environment.taken < self.function.workers:
            self._rest(environment)

    def _rest(self, environment: Environment) -> None:
        """Have it take invocations, as one of its workers is free."""
        timer = self._idle.pop(environment, None)
        if timer is not None:
            timer.cancel()
        self._idle[environment] = asyncio.get_running_loop().call_later(
            self.function.idle_timeout, self._expire, environment
        )

    def _expire(self, environment: Environment) -> None:
        if environment.taken:
            self._rest(environment)
            return
        del self._idle[environment]
        environment.shut_down()

    def _forget(self, environment: Environment) -> None:
        timer = self._idle.pop(environment, None)
        if timer is not None:
            timer.cancel()
        self._environments.discard(environment)
        self._runtime_api.environments.pop(environment.port, None)

    def _begin(self, invocation: Invocation) -> asyncio.Task[Outcome]:
        self._running += 1
        task = asyncio.create_task(self._execute(invocation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _run_events(self) -> None:
        while self._events and self._running < self.function.concurrency:
            self._begin(self._events.popleft()).add_done_callback(self._log_failure)

    def _log_failure(self, task: asyncio.Task[Outcome]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an event of function %s could not be run: %s", self.function.name, error)
