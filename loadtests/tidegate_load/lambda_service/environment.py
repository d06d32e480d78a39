"""One execution environment: a process, the Runtime API socket that only it uses, and its log stream.

Its life: INIT until the first `next`; then one invocation at a time, or one for each of its workers; then SIGKILL,
announced by SIGTERM where an extension is present, or an end of its own. All state changes happen in callbacks on
the event loop, so none of them can interleave.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from .function import Function
from .invocation import Answer, Invocation, error_answer, exit_text, timeout_text
from .log_stream import LogStream
from .spawner import Spawner

Protocols = Callable[[], asyncio.BaseProtocol]

SHUTDOWN_SECONDS = 0.3
"""Between SIGTERM and SIGKILL, where an extension is present."""


class StateError(Exception):
    """The runtime called the Runtime API out of turn; the argument is Lambda's name for the error."""


class Environment:
    """One process that runs one function.

    Attributes
    - `port`: of its Runtime API.
    - `initialised`: None when INIT succeeded, or the answer that tells why it did not.
    - `exited`: set when its process is gone and reaped.
    - `init_milliseconds`: how long INIT took; None until it has succeeded.
    - `taken`: how many of its workers are spoken for; the scheduler counts.

    Parameters: `ahead`: started before anybody invokes it, as provisioned concurrency is.
    """

    def __init__(self, function: Function, spawner: Spawner, log_folder: Path, *, ahead: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._spawner = spawner
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=8)
        self._server: asyncio.Server | None = None
        self._number: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        self._ahead = ahead
        # Handed to this environment: waiting for a worker to fetch it, and fetched, by request id.
        self._waiting: deque[Invocation] = deque()
        self._running: dict[str, Invocation] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        # Workers that wait for an event.
        self._nexts: deque[asyncio.Future[Invocation | None]] = deque()
        self._restore: asyncio.Future[None] | None = None
        self._first_invocation = True
        try:
            self._log = LogStream(log_folder)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self.pid = 0
        self.taken = 0
        self._doomed = False
        self.init_milliseconds: float | None = None
        self.initialised: asyncio.Future[Answer | None] = self._loop.create_future()
        self.exited: asyncio.Future[int] = self._loop.create_future()

    async def start(self, protocols: Protocols) -> None:
        """Start the process; `protocols` makes the Runtime API's side of a connection.

        Raises: SpawnError, OSError.
        """
        try:
            self._server = await self._loop.create_server(protocols, sock=self._socket)
            self._started = time.monotonic()
            self._number, self.pid = await self._spawner.spawn(
                directory=self._function.directory,
                handler=self._function.handler,
                log=self._log.path,
                variables=self._function.variables(
                    runtime_api=f"127.0.0.1:{self.port}", log_stream=self._log.name, ahead=self._ahead
                ),
                on_exit=self._exit,
            )
        except BaseException:
            self._close()
            raise
        # Time spent in the queue for a fork is not INIT's.
        self._started = time.monotonic()
        if not self.initialised.done():
            self._timer = self._loop.call_later(self._function.init_timeout, self._init_expired)

    def alive(self) -> bool:
        """Whether it may still be handed an event: it has not ended and nobody has decided that it must."""
        return not self._doomed

    def kill(self) -> None:
        """SIGKILL, without a goodbye. Safe to call at any time."""
        self._doomed = True
        if self._number is not None:
            self._spawner.kill(self._number)

    def shut_down(self) -> None:
        """End it as Lambda does: SIGTERM and SIGKILL 300 ms later where an extension is present, else SIGKILL."""
        if not self._function.extension or self._doomed or self._number is None:
            self.kill()
            return
        self._doomed = True
        self._spawner.terminate(self._number)
        self._timer = self._loop.call_later(SHUTDOWN_SECONDS, self.kill)

    def run(self, invocation: Invocation) -> None:
        """Hand an event to this environment, which has a worker free; the invocation's deadline starts now."""
        invocation.started = time.monotonic()
        invocation.deadline_ms = int((time.time() + self._function.timeout) * 1000)
        if invocation.wants_log:
            invocation.log_start = self._log.size()
        self._log.write(f"START RequestId: {invocation.request_id} Version: $LATEST")
        self._deadlines[invocation.request_id] = self._loop.call_later(
            self._function.timeout, self._expired, invocation
        )
        # The runtime's next call may still be on its way, right behind the response that made us idle.
        self._waiting.append(invocation)
        if self._restore is not None and not self._restore.done():
            self._restore.set_result(None)
        elif self._nexts:
            self._nexts.popleft().set_result(self._deliver())

    # -- what the runtime says ------------------------------------------------------------------------------

    async def next(self) -> Invocation | None:
        """The next event, however long it takes; None if the environment ends before. Raises: StateError."""
        if self._doomed:
            return None
        if len(self._nexts) + len(self._running) >= self._function.workers:
            raise StateError("InvalidStateTransition")
        self._init_succeeded()
        if self._waiting:
            return self._deliver()
        future: asyncio.Future[Invocation | None] = self._loop.create_future()
        self._nexts.append(future)
        return await future

    async def restore(self) -> None:
        """The snapshot is taken now; it is restored, and this returns, for the first event. Raises: StateError."""
        if self.initialised.done() or self._doomed:
            raise StateError("InvalidStateTransition")
        self._restore = self._loop.create_future()
        self._init_succeeded()
        await self._restore

    def restore_error(self, payload: bytes) -> None:
        """The runtime reports that a hook failed after the restore. Raises: StateError."""
        if self._restore is None or not self._waiting:
            raise StateError("InvalidStateTransition")
        self._finish(self._waiting[0], Answer(payload, failed=True, init_failed=True), "error")
        self.kill()

    def init_error(self, payload: bytes) -> None:
        """The runtime reports that INIT failed. Raises: StateError."""
        if self.initialised.done():
            raise StateError("InvalidStateTransition")
        self._init_failed(Answer(payload, failed=True, init_failed=True), "error", _error_type(payload))

    def respond(self, request_id: str, answer: Answer) -> None:
        """The runtime's answer to the event that it has fetched. Raises: StateError."""
        invocation = self._running.get(request_id)
        if invocation is None:
            raise StateError("InvalidRequestID")
        self._finish(invocation, answer, "error" if answer.failed else "")

    # -- how it ends ----------------------------------------------------------------------------------------

    def _init_expired(self) -> None:
        seconds = self._function.init_timeout
        answer = error_answer("Sandbox.Timedout", f"INIT: {timeout_text(seconds)}", init_failed=True)
        self._init_failed(answer, "timeout", "Sandbox.Timedout")

    def _init_failed(self, answer: Answer, status: str, error_type: str) -> None:
        self._stop_timer()
        duration = (time.monotonic() - self._started) * 1000
        self._log.write(
            f"INIT_REPORT Init Duration: {duration:.2f} ms\tPhase: init\tStatus: {status}\tError Type: {error_type}"
        )
        self.initialised.set_result(answer)
        self.kill()

    def _expired(self, invocation: Invocation) -> None:
        request_id = invocation.request_id
        text = timeout_text(self._function.timeout)
        self._log.write(f"{request_id} {text}")
        self.kill()
        self._finish(
            invocation,
            error_answer("Sandbox.Timedout", f"RequestId: {request_id} Error: {text}", timed_out=True),
            "timeout",
        )

    def _exit(self, wait_status: int) -> None:
        self._doomed = True
        text = exit_text(wait_status)
        if not self.initialised.done():
            answer = error_answer("Runtime.ExitError", text, init_failed=True)
            self._init_failed(answer, "error", "Runtime.ExitError")
        for invocation in [*self._running.values(), *self._waiting]:
            request_id = invocation.request_id
            answer = error_answer("Runtime.ExitError", f"RequestId: {request_id} Error: {text}")
            self._finish(invocation, answer if invocation.delivered else None, "error")
        while self._nexts:
            self._nexts.popleft().set_result(None)
        if self._restore is not None and not self._restore.done():
            self._restore.set_result(None)
        self._close()
        self.exited.set_result(os.waitstatus_to_exitcode(wait_status))

    def _init_succeeded(self) -> None:
        if not self.initialised.done():
            self._stop_timer()
            self.init_milliseconds = (time.monotonic() - self._started) * 1000
            self.initialised.set_result(None)

    def _deliver(self) -> Invocation:
        invocation = self._waiting.popleft()
        invocation.delivered = True
        self._running[invocation.request_id] = invocation
        return invocation

    def _finish(self, invocation: Invocation, answer: Answer | None, status: str) -> None:
        if self._running.pop(invocation.request_id, None) is None:
            self._waiting.remove(invocation)
        self._deadlines.pop(invocation.request_id).cancel()
        first, self._first_invocation = self._first_invocation, False
        self._log.report(
            invocation.request_id,
            (time.monotonic() - invocation.started) * 1000,
            self._function.memory,
            self.init_milliseconds if first else None,
            status,
        )
        if answer is not None and invocation.wants_log:
            answer.log_tail = self._log.tail(invocation.log_start)
        if not invocation.done.done():
            invocation.done.set_result(answer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._stop_timer()
        if self._server is not None:
            self._server.close()
        else:
            self._socket.close()
        self._log.close()


def _error_type(payload: bytes) -> str:
    try:
        return str(json.loads(payload)["errorType"])
    except (ValueError, KeyError, TypeError):
        return "Runtime.Unknown"
