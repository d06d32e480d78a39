"""The service's side of the zygote: start an execution environment, kill it, hear of its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_SCRIPT = Path(__file__).with_name("zygote.py")


class SpawnError(RuntimeError):
    """No process could be started; the message says why and what helps."""


class Spawner:
    """Owns one zygote process.

    Parameters
    - `interpreter`: start each environment as a new process of this one instead of a fork of a warm one.
    - `variables`: the zygote's environment variables, which its imports see.
    """

    def __init__(self, *, interpreter: str | None, variables: Mapping[str, str]) -> None:
        self._interpreter = interpreter
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._variables = dict(variables)
        self._ids = itertools.count(1)
        self._starting: dict[int, asyncio.Future[int]] = {}
        self._on_exit: dict[int, Callable[[int], None]] = {}
        self._pids: dict[int, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the zygote and wait until it can fork. Raises: SpawnError."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (a few ms, once)
                [
                    sys.executable,
                    "-P",
                    str(_SCRIPT),
                    str(theirs.fileno()),
                    "bare" if self._interpreter else "preload",
                ],
                pass_fds=[theirs.fileno()],
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is the service's to handle
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        if not await reader.readline():
            raise SpawnError("the process that forks environments did not start; its error is above")
        self._reading = asyncio.create_task(self._read(reader))

    async def spawn(
        self,
        *,
        directory: Path,
        handler: str,
        log: Path,
        variables: Mapping[str, str],
        on_exit: Callable[[int], None],
    ) -> tuple[int, int]:
        """Start an environment; `on_exit` is called once, with its wait status.

        Returns: (its id here, its process id).
        Raises: SpawnError.
        """
        number = next(self._ids)
        pid = self._starting[number] = asyncio.get_running_loop().create_future()
        self._on_exit[number] = on_exit
        request = {
            "start": number,
            "interpreter": self._interpreter,
            "directory": str(directory),
            "handler": handler,
            "log": str(log),
            "variables": variables,
        }
        try:
            self._send(request)
            return number, await pid
        except SpawnError:
            del self._on_exit[number]
            raise

    def kill(self, number: int) -> None:
        """SIGKILL to an environment and all that it started; nothing if it is gone already."""
        with contextlib.suppress(SpawnError):
            self._send({"kill": number})

    def terminate(self, number: int) -> None:
        """SIGTERM to an environment's runtime; nothing if it is gone already."""
        with contextlib.suppress(SpawnError):
            self._send({"terminate": number})

    async def close(self) -> None:
        """Kill and reap every environment and the zygote; at return every `on_exit` has been called."""
        # Only our half is closed, so that the zygote can still report how each environment ended.
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write_eof()
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, 10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        if self._reading is not None:
            await self._reading
        if self._writer is not None:
            self._writer.close()

    def _send(self, message: Mapping[str, object]) -> None:
        if self._writer is None or self._writer.is_closing() or self.died.done():
            raise SpawnError("the service is stopping")
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self._receive(json.loads(line))
        # Without a zygote there is no environment: the kernel killed those that it had not, but not what they started.
        for environment in self._pids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(environment, signal.SIGKILL)
        self.died.set_result(None)
        for pid in self._starting.values():
            if not pid.done():
                pid.set_exception(SpawnError("the service is stopping"))
        while self._on_exit:
            _, on_exit = self._on_exit.popitem()
            on_exit(9)

    def _receive(self, message: dict[str, int]) -> None:
        if "started" in message:
            self._pids[message["started"]] = message["pid"]
            pid = self._starting.pop(message["started"])
            if not pid.done():
                pid.set_result(message["pid"])
        elif "exited" in message:
            del self._pids[message["exited"]]
            self._on_exit.pop(message["exited"])(message["status"])
        else:
            self._starting.pop(message["failed"]).set_exception(
                SpawnError(
                    f"cannot start an execution environment: {message['reason']}; allow more processes "
                    "(ulimit -u) or more memory, or lower the concurrency"
                )
            )
