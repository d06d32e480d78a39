"""The workers behind one port talk to each other: a command of the admin console is meant for the proxy, not for the
one process that its connection happens to reach.

Each worker listens on a Unix socket without a name in the file system, which the supervisor has made. It greets, takes
one request, a JSON object in one line, and answers with another one. Only processes of the same supervisor are heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate_proxy.console import commands, together
from tidegate_proxy.console.parse import Command
from tidegate_proxy.console.table import Table
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.headcount import Headcount
from tidegate_proxy.joint_reload import JointReload
from tidegate_proxy.settings import Settings
from tidegate_proxy.shared_configuration import SharedConfiguration
from tidegate_proxy.shared_memory import SharedMemory
from tidegate_proxy.worker_connection import GREETING, Message, connected

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy
    from tidegate_proxy.workers import Team

logger = logging.getLogger(__name__)

_GREETS_WITHIN = 3.0
"""Seconds: one that is alive does so with the next turn of its event loop."""
_SHOWS_WITHIN = 5.0
_LONGEST_REQUEST = 1 << 20
_LONGEST_ANSWER = 1 << 30
"""Bytes. Hundreds of thousands of clients, say."""

_ONE_IS_ENOUGH = {"KILL_CLIENT": "42704", "PAUSE": "55000", "RESUME": "55000"}
"""Commands that have done what they should where one worker has done it, and the others say this."""


class Siblings:
    """Parameters: the `proxy`, one worker of the `team`; None for a process alone."""

    def __init__(self, proxy: Proxy, team: Team | None = None) -> None:
        self._proxy = proxy
        self._team = team
        self._server: asyncio.Server | None = None
        self._turn = asyncio.Lock()
        self._configuration = SharedConfiguration(team.configuration) if team is not None else None
        # Whether this one knows what all were told.
        self._caught_up = not self.again
        self._memory = SharedMemory(team.memory, len(team.addresses)) if team is not None else None
        # How often all were told to end, as far as this one has done so.
        self._told_to_end = 0

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self._team is None

    @property
    def again(self) -> bool:
        """Whether this process takes the place of a worker that has died."""
        return self._team is not None and self._team.again

    @property
    def output(self) -> int | None:
        """The file to be locked by who writes on the standard output, which all share; None for a process alone."""
        return self._team.output if self._team is not None else None

    async def start(self) -> None:
        """Listen; one that takes the place of another does what that one had been told to."""
        if self._team is None:
            return
        listener = socket.socket(fileno=self._team.listener)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LONGEST_REQUEST)
        self.end_if_told()
        if self.again:
            await self._catch_up()

    def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()

    async def everywhere(self, command: Command, here: Callable[[], Awaitable[None]]) -> None:
        """Run a command in all workers at once. Raises: ProxyError of those that could not do it.

        Parameters: `here`, what runs it in this one.
        """
        if self._team is None or command.verb in ("RELOAD", "SHUTDOWN"):  # which tell the others themselves
            await here()
        elif command.verb == "SET":
            # Before a reload or after it, in all of them.
            async with self._leading():
                await self._everywhere(command, here)
        else:
            await self._everywhere(command, here)

    async def _everywhere(self, command: Command, here: Callable[[], Awaitable[None]]) -> None:
        assert self._team is not None
        answers = await self._ask_all({"command": [command.verb, command.arguments, command.assigns]}, here)
        failures = {index: answer["error"] for index, answer in sorted(answers.items()) if "error" in answer}
        enough = _ONE_IS_ENOUGH.get(command.verb)
        if len(failures) < len(answers):
            failures = {index: error for index, error in failures.items() if error["sqlstate"] != enough}
        if not failures:
            return
        index = self._team.index if self._team.index in failures else min(failures)
        error = _error_of(failures[index])
        if len(failures) < len(answers):
            error.message = f"worker {index}: {error.message}"
            error.hint = f"Other workers have done it. {error.hint or ''}".strip()
        raise error

    async def shut_down(self, how: str) -> None:
        """End in all workers. Parameters: `how`, one of `shared_memory.SHUTDOWNS`."""
        if self._memory is None:
            _end(self._proxy, how)
            return
        self._memory.tell_to_end(how)
        # Who does not answer finds it told when it can.
        await self._ask_all({"end": True})
        self.end_if_told()

    def end_if_told(self) -> None:
        """Do what all were told with SHUTDOWN, also before this one was started. Called every second or so."""
        if self._memory is None:
            return
        count, how = self._memory.shutdown
        if count > self._told_to_end:
            self._told_to_end = count
            _end(self._proxy, how)

    def headcount(self) -> Headcount:
        """The clients of all workers."""
        if self._memory is None or self._team is None:
            return Headcount()
        return self._memory.headcount(self._team.index)

    async def reload(self, read_again: Callable[[], Settings]) -> list[str]:
        """Read the configuration, and take it over in all workers or in none.

        Returns: the names of the settings that have changed. Raises: ConfigurationError, then none has.
        """
        if self._team is None:
            # What was read last is what holds in the end.
            async with self._turn, self._proxy.preparing(await asyncio.to_thread(read_again)) as change:
                await self._proxy.follow(change)
            return change.changed
        return await self._joint_reload().lead(read_again)

    def _joint_reload(self) -> JointReload:
        assert self._team is not None
        assert self._configuration is not None
        return JointReload(self._proxy, self._team, self._configuration)

    def _leading(self) -> contextlib.AbstractAsyncContextManager[None]:
        assert self._configuration is not None
        return self._configuration.leading()

    async def show(self, word: str, own: Callable[[Proxy], Table]) -> tuple[Table, list[str]]:
        """One SHOW for all workers together, where that makes sense. Returns: its table, and what is missing in it."""
        if self._team is None or not together.is_joint(word):
            return own(self._proxy), []
        answers = await self._ask_all({"show": word}, within=_SHOWS_WITHIN)
        parts = [together.part_of(word, self._proxy)]
        missing = []
        for index, answer in sorted(answers.items()):
            if "rows" in answer:
                parts.append(answer["rows"])
            else:
                missing.append(f"worker {index}: {answer['error']['message']}")
        return together.joined(word, own(self._proxy).columns, parts), missing

    async def metrics(self, own: bytes) -> dict[int, str]:
        """The metrics of each worker that answers, as Prometheus's text; `own`, this one's."""
        assert self._team is not None
        answers = await self._ask_all({"metrics": True}, within=_SHOWS_WITHIN)
        texts = {index: answer["text"] for index, answer in answers.items() if "text" in answer}
        return dict(sorted((texts | {self._team.index: own.decode()}).items()))

    async def _ask_all(
        self, request: Message, here: Callable[[], Awaitable[None]] | None = None, within: float | None = None
    ) -> dict[int, Message]:
        assert self._team is not None
        tasks: dict[int, Coroutine[Any, Any, Message]] = {
            index: self._ask(index, request, within) for index in self._team.others
        }
        if here is not None:
            tasks[self._team.index] = _answered(here())
        return dict(zip(tasks, await asyncio.gather(*tasks.values()), strict=True))

    async def _ask(self, index: int, request: Message, within: float | None) -> Message:
        assert self._team is not None
        try:
            async with asyncio.timeout(within):
                address = self._team.addresses[index]
                async with connected(address, greets_within=_GREETS_WITHIN, longest=_LONGEST_ANSWER) as connection:
                    return await connection.ask(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            logger.warning("worker %d does not answer: %s", index, str(error) or type(error).__name__)
            return {"error": _fields_of(_no_answer())}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not _is_sibling(writer.get_extra_info("socket")):
                logger.warning("somebody else than a worker has tried to speak to this one")
                return

            async def tell(answer: Message) -> None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()

            writer.write(GREETING)
            line = await reader.readline()
            # Empty from one that has given up, for example while this one was being started.
            request = json.loads(line) if line else {}
            if "prepare" in request:
                await self._joint_reload().join(reader, tell, request["prepare"])
            elif line and (answer := await _while_there(reader, self._do(request))) is not None:
                await tell(answer)
        except (OSError, ValueError) as error:
            logger.debug("a request of another worker failed: %s", error)
        finally:
            writer.close()

    async def _do(self, request: Message) -> Message:
        if "show" in request:
            return {"rows": together.part_of(request["show"], self._proxy)}
        if "metrics" in request:
            return {"text": self._proxy.monitor.metrics().decode()}
        if "end" in request:
            self.end_if_told()
            return {}
        if "command" not in request:
            standing = [[each.verb, each.arguments, each.assigns] for each in self._proxy.control.standing()]
            return {"standing": standing, "caught_up": self._caught_up}
        command = _command_of(request["command"])
        logger.info("console of another worker: %s", command)
        return await _answered(self._run(command))

    async def _run(self, command: Command) -> None:
        await commands.COMMANDS[command.verb](self._proxy, command)

    async def _catch_up(self) -> None:
        # Nothing of it changes meanwhile.
        async with self._leading():
            await self._joint_reload().catch_up()
            await self._follow_others()
        self._caught_up = True

    async def _follow_others(self) -> None:
        answers = [answer for answer in (await self._ask_all({})).values() if "standing" in answer]
        # One that is being started, too, may not know it all. If there are only such, each may know something.
        for answer in next(([answer] for answer in answers if answer["caught_up"]), answers):
            for parts in answer["standing"]:
                command = _command_of(parts)
                logger.info("as the other workers: %s", command)
                with contextlib.suppress(ProxyError):
                    await self._run(command)


def _end(proxy: Proxy, how: str) -> None:
    if how == "WAIT_FOR_CLIENTS":
        proxy.stop_after_last_client()
        return
    proxy.stop(0)
    if not how:
        proxy.stop(0)


def _command_of(parts: list[Any]) -> Command:
    verb, arguments, assigns = parts
    return Command(verb, tuple(arguments), assigns)


async def _answered(action: Awaitable[None]) -> Message:
    try:
        await action
    except ProxyError as error:
        return {"error": _fields_of(error)}
    return {}


async def _while_there(reader: asyncio.StreamReader, action: Coroutine[Any, Any, Message]) -> Message | None:
    """The answer; None if nobody waits for it any more. What was asked to happen stays, as with a console."""
    task = asyncio.ensure_future(action)
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


def _fields_of(error: ProxyError) -> dict[str, str | None]:
    return {"message": error.message, "sqlstate": error.sqlstate, "detail": error.detail, "hint": error.hint}


def _error_of(fields: dict[str, str | None]) -> ProxyError:
    return ProxyError(fields["message"], sqlstate=fields["sqlstate"], detail=fields["detail"], hint=fields["hint"])


def _no_answer() -> ProxyError:
    return ProxyError(
        "does not answer",
        sqlstate="08006",
        hint="It may be starting again: see the log, and give the command once more.",
    )


def _is_sibling(connection: socket.socket) -> bool:
    """Whether the process at the other end has the same supervisor as this one, and the same user."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid != os.geteuid():
        return False
    try:
        # Parent: the second field behind the name, which is in parentheses; proc(5).
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getppid()
    except (OSError, ValueError):  # it has gone, or is in a container of its own
        return False
