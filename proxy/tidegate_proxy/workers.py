"""Several proxy processes behind one port: the parent starts them, restarts those that die, and passes signals on."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import SecretStr

from tidegate_proxy.net.listen import tcp_listeners
from tidegate_proxy.settings import ConfigurationError, Settings
from tidegate_proxy.shared_configuration import SharedConfiguration
from tidegate_proxy.shared_memory import SharedMemory

logger = logging.getLogger(__name__)

CONFIGURATION_FAILURE = 2
"""Exit status of a worker that can't use the configuration."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_LONG = 3600.0
_LIVED_WELL = 10.0
"""Seconds after which a worker's death is not taken for a consequence of its start."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Team:
    """What one worker knows of all.

    - `supervisor`: the process id of their parent. `index`: which of them it is, from 0.
    - `port` and `http_port`: the TCP ports that all listen on.
    - `listener`: its end of a Unix socket, on which it takes commands of the others' consoles; a file descriptor.
    - `addresses`: where each of them takes those; in the abstract namespace.
    - `output`: the file descriptor of what one locks to write on the standard output.
    - `mock_secret`: the file descriptor of what to read as `scram_mock_secret` where none is configured.
    - `configuration`, `memory`: the file descriptors of the SharedConfiguration and the SharedMemory.
    - `again`: it takes the place of one that has died.
    """

    supervisor: int
    index: int
    port: int
    http_port: int | None
    listener: int
    addresses: tuple[str, ...]
    output: int
    mock_secret: int
    configuration: int
    memory: int
    again: bool

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def others(self) -> list[int]:
        """The numbers of all but this one."""
        return [index for index in range(len(self.addresses)) if index != self.index]

    @classmethod
    def parse(cls, text: str) -> Team:
        """What `str` has made of one."""
        fields = json.loads(text)
        return cls(**fields | {"addresses": tuple(fields["addresses"])})


def worker_settings(settings: Settings, team: Team) -> Settings:
    """What holds for one worker: the same for all but for what only one can have."""
    return settings.model_copy(
        update={
            "listen_port": settings.listen_port or team.port,
            "http_port": team.http_port if settings.http_port == 0 else settings.http_port,
            "fleet_port": settings.fleet_port + team.index if settings.fleet_port else 0,
            "unix_socket_dir": settings.unix_socket_dir if team.index == 0 else None,
            "scram_mock_secret": settings.scram_mock_secret or SecretStr(os.pread(team.mock_secret, 64, 0).decode()),
        }
    )


def begin_worker(parent: int) -> None:
    """In a worker: end with the parent, whatever its end. Signals stay blocked until `Proxy.serve` can take them.

    Parameters: `parent`, its process id.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It was too quick.
        os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


class Workers:
    """Supervises as many workers as `settings` say.

    Parameters: `file`, the configuration's, None for the environment alone.
    Raises: ConfigurationError when the port can't be had.
    """

    def __init__(self, settings: Settings, file: Path | None) -> None:
        # Bound and never listened on: it keeps the port for the workers, and no connection comes here.
        self._reserved = tcp_listeners(settings.listen_host, settings.listen_port, shared=True, reserve_only=True)
        self._port = self._reserved[0].getsockname()[1] if self._reserved else settings.listen_port
        self._http_port = settings.http_port
        if settings.http_port is not None:
            host = settings.http_host or settings.listen_host
            try:
                reserved = tcp_listeners(host, settings.http_port, shared=True, reserve_only=True)
            except ConfigurationError as error:
                _, _, why = str(error).partition(": ")
                raise ConfigurationError(f"http_port: {why}") from None
            self._http_port = reserved[0].getsockname()[1]
            self._reserved += reserved
        # Those of one that is being started again keep for it what comes meanwhile.
        self._consoles = [_unnamed_listener() for _ in range(settings.workers)]
        self._addresses = tuple(console.getsockname()[1:].decode() for console in self._consoles)
        self._output = os.memfd_create("output")
        # By salts that differ from worker to worker, clients could tell which users there are.
        self._mock_secret = os.memfd_create("mock secret")
        os.write(self._mock_secret, secrets.token_hex(32).encode())
        self._configuration = SharedConfiguration.create(settings).descriptor
        self._memory = SharedMemory.create(settings.workers, settings.max_client_conn)
        self._file = file
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._started = [0.0] * settings.workers
        # Those that have taken the place of one that died.
        self._again: set[int] = set()
        self._pauses = [_FIRST_PAUSE] * settings.workers
        # When to start which again.
        self._due = dict.fromkeys(range(settings.workers), 0.0)
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until all have ended after SIGTERM or SIGINT, or one of them has ended by itself in order.

        Returns: the exit status: 0, or 2 when a worker can't use the configuration from the beginning, or 1 for a drain
        that went wrong.
        """
        signals = {*_PASSED_ON, signal.SIGCHLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            while self._running or not self._stopping:
                self._start_due()
                got = signal.sigtimedwait(signals, self._until_due())
                if got is not None and got.si_signo != signal.SIGCHLD:
                    self._pass_on(signal.Signals(got.si_signo))
                self._reap()
        finally:
            for worker in self._running.values():
                worker.kill()
                worker.wait()
            for kept in (*self._reserved, *self._consoles):
                kept.close()
            for descriptor in (self._output, self._mock_secret, self._configuration, self._memory.descriptor):
                os.close(descriptor)
        return self._status

    def _until_due(self) -> float:
        """Seconds until the next start, or else any while: a signal ends the wait."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due else _LONG

    def _start_due(self) -> None:
        if self._told_to_end:
            self._stop()
        now = time.monotonic()
        for index in [index for index, due in self._due.items() if due <= now]:
            del self._due[index]
            self._started[index] = now
            console = self._consoles[index].fileno()
            team = Team(
                os.getpid(),
                index,
                self._port,
                self._http_port,
                console,
                self._addresses,
                self._output,
                self._mock_secret,
                self._configuration,
                self._memory.descriptor,
                again=index in self._again,
            )
            command = [sys.executable, "-m", "tidegate_proxy", "worker", str(team)]
            command += [str(self._file)] if self._file is not None else []
            # A group of its own: what a terminal sends to all would come twice.
            try:
                inherited = [console, self._output, self._mock_secret, self._configuration, self._memory.descriptor]
                worker = subprocess.Popen(command, process_group=0, pass_fds=inherited)
            except OSError as error:
                # No memory or no process left: those that run must not end for that.
                logger.error("worker %d cannot be started: %s; next try in %g s", index, error, self._put_off(index))
                continue
            self._running[index] = worker
            logger.info("worker %d is process %d", index, worker.pid)

    def _pass_on(self, signum: signal.Signals) -> None:
        if signum != signal.SIGHUP:
            self._stop()
        # One reads the configuration again, and leads the others.
        all_of_them = [self._running[index] for index in sorted(self._running)]
        for worker in all_of_them[:1] if signum == signal.SIGHUP else all_of_them:
            worker.send_signal(signum)

    def _reap(self) -> None:
        for index, worker in [*self._running.items()]:
            status = worker.poll()
            if status is None:
                continue
            del self._running[index]
            self._memory.forget(index)
            if self._told_to_end:
                # By a console. All know it, also those that are being started, and end each at its time.
                self._stop()
            if self._stopping:
                self._status = self._status or (1 if status else 0)
            elif status == 0 or (status == CONFIGURATION_FAILURE and index not in self._again):
                # Somebody has told this one; or it is the beginning, and the others will not fare better.
                self._status = status
                self._pass_on(signal.SIGTERM)
            else:
                # Also for a configuration that has been spoilt since: the others serve as it was.
                self._start_again(index, status)

    @property
    def _told_to_end(self) -> bool:
        count, _ = self._memory.shutdown
        return count > 0

    def _stop(self) -> None:
        """Start none again."""
        self._stopping = True
        self._due.clear()

    def _start_again(self, index: int, status: int) -> None:
        if time.monotonic() - self._started[index] >= _LIVED_WELL:
            self._pauses[index] = _FIRST_PAUSE
        self._again.add(index)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        pause = self._put_off(index)
        logger.error("worker %d (process ended by %s) is started again in %g s", index, how, pause)

    def _put_off(self, index: int) -> float:
        """Start this one after its pause, in seconds, which is returned; the next one will be longer."""
        pause = self._pauses[index]
        self._pauses[index] = min(_LONGEST_PAUSE, 2 * pause)
        self._due[index] = time.monotonic() + pause
        return pause


def _unnamed_listener() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Linux chooses an address that nobody else has; unix(7), "Autobind feature".
    listener.bind("")
    listener.listen()
    return listener
