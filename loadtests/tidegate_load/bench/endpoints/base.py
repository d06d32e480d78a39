"""What the scenarios know of an endpoint: how it is started, where it listens, what it has used."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tidegate_load.bench.poolers import FOLDER
from tidegate_load.bench.stage import HOST, BenchError, Stage
from tidegate_load.bench.usage import Usage, tree_memory, tree_peak_memory, tree_usage
from tidegate_load.clean_environment import clean_environment
from tidegate_load.postgres import free_port

START_TIMEOUT = 30.0
"""Seconds that a pooler may take to accept its first login."""

ANSWER_TIMEOUT = 5.0
"""Seconds that the first query may take."""

_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Setup:
    """How an endpoint is configured: the same words for all of them.

    `clients`, the most that will be connected; `tls` between client and pooler; `prepared`, whether clients use
    protocol-level prepared statements; `sessions`, whether clients keep state in their sessions, for which poolers that
    do not carry it run as session pools; `iam`, clients log in with AWS credentials; `processes` that listen on the one
    port, and `pool_size` is what they have together; `reuse`, statements without a name are reused by whoever can.
    """

    clients: int
    tls: bool = False
    prepared: bool = False
    pool_size: int = 20
    sessions: bool = False
    iam: bool = False
    processes: int = 1
    reuse: bool = False


class Running:
    """An endpoint that accepts logins, until closed.

    `parameters`: keyword arguments for `psycopg.connect`; `remark`: what makes it differ from what was asked for.
    """

    def __init__(self, parameters: dict[str, Any], process: PoolerProcess | None = None, remark: str = "") -> None:
        self.parameters = parameters
        self.remark = remark
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End its processes. Safe to call twice."""
        if self._process is not None:
            self._process.stop()

    @property
    def is_pooler(self) -> bool:
        """Whether there is a process of its own whose use of CPU and memory can be told."""
        return self._process is not None

    def usage(self) -> Usage:
        """What it has used so far; nothing for PostgreSQL itself. Raises: BenchError when its process has ended."""
        if self._process is None:
            return Usage()
        with self._process.named():
            return tree_usage(self._process.pid)

    def memory(self) -> int:
        """Bytes of memory now (PSS). Raises: BenchError when its process has ended."""
        assert self._process is not None
        with self._process.named():
            return tree_memory(self._process.pid)

    def peak_memory(self) -> int:
        """Most bytes of resident memory so far. Raises: BenchError when its process has ended."""
        assert self._process is not None
        with self._process.named():
            return tree_peak_memory(self._process.pid)


class Endpoint(abc.ABC):
    """One way to reach the database."""

    key: str
    title: str
    pooler = True
    knows_iam = False
    shares_port = False
    """Whether several of its processes can listen on one port."""

    @abc.abstractmethod
    def version(self) -> str | None:
        """Its version, or None when it is not present on this machine."""

    @abc.abstractmethod
    def absence(self) -> str:
        """Why it is not present, in a few words."""

    def unfit(self, setup: Setup) -> str:
        """Why it is left out of a case with this setup; by default it takes part."""
        return ""

    @abc.abstractmethod
    def start(self, stage: Stage, setup: Setup) -> Running:
        """Start it and wait until it accepts logins. Raises: BenchError."""


class PoolerEndpoint(Endpoint):
    """An endpoint with a process of its own. A subclass writes the configuration and says how the program is called."""

    as_nobody = True
    """Whether it runs as the user that runs PostgreSQL when we are root: most poolers refuse root."""

    settling = 0.0
    """Seconds that it is left alone after its start."""

    @abc.abstractmethod
    def command(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        """Write the configuration to `folder`; returns the program and its arguments. Raises: BenchError."""

    def environment(self) -> Mapping[str, str]:
        """Variables for the process, none by default."""
        return {}

    def remark(self, setup: Setup) -> str:
        """What makes this pooler differ from the setup, nothing by default."""
        return ""

    def start(self, stage: Stage, setup: Setup) -> Running:
        attempts = 3
        while True:
            attempts -= 1
            folder = stage.new_folder(self.key)
            port = free_port()
            command = self.command(stage, setup, folder, port)
            if self.as_nobody:
                for file in filter(Path.is_file, folder.iterdir()):
                    file.chmod(0o600)
                    stage.hand_over(file)
            process = PoolerProcess(
                self.title,
                command,
                folder / "output.log",
                environment=self.environment(),
                as_nobody=self.as_nobody,
            )
            parameters = client_parameters(stage, setup, port)
            try:
                stage.interruption.wait(self.settling)
                process.wait_for_login(stage, parameters)
            except BaseException as error:
                process.stop()
                # Somebody else may have taken the port in between.
                if attempts and isinstance(error, BenchError) and "in use" in str(error):
                    continue
                raise
            return Running(parameters, process, self.remark(setup))


def find_program(name: str) -> str | None:
    """Where a program is: what `make poolers` fetched, then PATH, then /usr/sbin, which PATH often lacks."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{FOLDER.absolute() / 'bin'}:{path}:/usr/sbin:/usr/local/sbin")


class PathEndpoint(PoolerEndpoint):
    """A pooler that is a program, see `find_program`."""

    program: str

    def path(self) -> str | None:
        """Where the program is."""
        return find_program(self.program)

    def version(self) -> str | None:
        path = self.path()
        if path is None:
            return None
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return "unknown version"
        return (done.stdout or done.stderr).strip().partition("\n")[0] or "unknown version"

    def absence(self) -> str:
        return f"no program {self.program} on PATH, and none from make poolers"

    @abc.abstractmethod
    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        """Write the configuration to `folder`; returns the program's arguments. Raises: BenchError."""

    def command(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        path = self.path()
        if path is None:
            raise BenchError(f"{self.title}: {self.absence()}")
        return [path, *self.configure(stage, setup, folder, port)]


def client_parameters(stage: Stage, setup: Setup, port: int) -> dict[str, Any]:
    """Keyword arguments for `psycopg.connect` to an endpoint on loopback."""
    parameters = stage.parameters(host=HOST, port=port, sslmode="require" if setup.tls else "disable")
    if setup.iam:
        parameters["password"] = stage.identities(setup.clients).tokens(1)[0]
    return parameters


@contextlib.contextmanager
def _hung_up_on(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Close a connection on which no answer comes, since psycopg would wait for ever."""
    with socket.socket(fileno=os.dup(conn.fileno())) as same:
        timer = threading.Timer(ANSWER_TIMEOUT, same.shutdown, [socket.SHUT_RDWR])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


class PoolerProcess:
    """A pooler's process, in a session of its own: Ctrl-C in the terminal does not reach it, we stop it in order.

    Parameters: `as_nobody`, run it as the user that runs PostgreSQL when we are root, since most poolers refuse root.
    Raises: BenchError when it cannot be run.
    """

    def __init__(
        self,
        title: str,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        as_nobody: bool = False,
    ) -> None:
        self._title = title
        self._log = log
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    arguments,
                    cwd=log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=clean_environment() | dict(environment or {}),
                    start_new_session=True,
                    **(Stage.unprivileged() if as_nobody else {}),
                )
            except OSError as error:
                raise BenchError(f"{title} did not start: {error}") from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @contextlib.contextmanager
    def named(self) -> Any:
        """Turn "no such process" into an error that names it."""
        try:
            if self._process.poll() is not None:
                raise ProcessLookupError
            yield
        except (ProcessLookupError, FileNotFoundError):
            raise self._failure("ended") from None

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def wait_for_login(self, stage: Stage, parameters: dict[str, Any]) -> None:
        """Wait until a client can log in and query. Raises: BenchError when it ends or takes too long."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            last = ""
            try:
                with psycopg.connect(**parameters, connect_timeout=5, autocommit=True) as conn, _hung_up_on(conn):
                    conn.execute("SELECT 1")
                return
            except psycopg.Error as error:
                last = " ".join(str(error).split())
            if self._process.poll() is not None:
                raise self._failure("did not start")
            if time.monotonic() > deadline:
                raise BenchError(f"{self._title} accepted no login within {START_TIMEOUT:.0f} s: {last}")
            stage.interruption.wait(0.05)

    def stop(self) -> None:
        """SIGTERM, a little later SIGKILL, to its whole session. Safe to call twice."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, how)
            try:
                self._process.wait(_GRACE)
                return
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def _failure(self, what: str) -> BenchError:
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        return BenchError(f"{self._title} {what}: {lines[-1] if lines else 'it wrote nothing'}")
