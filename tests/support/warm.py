"""Proxy processes without the half second that each spends on its imports: forked from one that has imported all.

Run as a program this is that process. A fork is what a new process is after its imports, but for what is random in a
module: the marker of the proxy's own queries, and the secret for salts of unknown users where none is configured.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

REQUEST_LIMIT = 1 << 20
"""Bytes of arguments and environment."""

_ROOT = Path(__file__).parents[2]


class WarmProcess:
    """A process forked from the warm one; as much of `subprocess.Popen` as tests of the proxy use."""

    def __init__(self, warm: _Warm, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._warm = warm
        # Good until the exit status is asked for: nobody else gets this process id before that.
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status. Raises: subprocess.TimeoutExpired."""
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("tidegate-proxy", timeout or 0)
        return status

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._handle, select.POLLIN)
            if poller.poll(None if timeout is None else timeout * 1000):
                self.returncode = self._warm.status(self.pid)
                os.close(self._handle)
        return self.returncode

    def send_signal(self, how: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, how)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Warm:
    """The test process's end of the warm process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            for end in (self._socket, other):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * REQUEST_LIMIT)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(other.fileno())],
                cwd=_ROOT,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End it, and with it whatever it has started."""
        self._socket.close()
        self._process.wait()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], stdout: int, stderr: int) -> WarmProcess:
        """Fork. Parameters: `arguments` of tidegate-proxy; file descriptors for its output."""
        request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(Path.cwd())}
        return WarmProcess(self, self._ask(request, stdout, stderr))

    def status(self, pid: int) -> int:
        """The exit status of a process that has ended, as `subprocess.Popen.returncode` has it."""
        return self._ask({"ended": pid})

    def _ask(self, request: object, *descriptors: int) -> int:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(100)
        assert answer, "the warm process has ended"
        return int(answer)


@functools.cache
def warm() -> _Warm:
    """The warm process of this test process."""
    made = _Warm()
    atexit.register(made.close)
    return made


def _serve(requests: socket.socket) -> list[str]:
    """Fork as often as is asked for. Returns: in each fork, its arguments; in the warm process itself, never."""
    running: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, REQUEST_LIMIT, 2)
        if not data:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            os._exit(0)
        request = json.loads(data)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
            running.discard(request["ended"])
        else:
            answer = os.fork()
            if answer == 0:
                return _become(request, descriptors)
            running.add(answer)
            for descriptor in descriptors:
                os.close(descriptor)
        requests.send(str(answer).encode())


def _become(request: dict[str, object], descriptors: list[int]) -> list[str]:
    """In a fork: take on what a new process would have been given."""
    stdout, stderr = descriptors
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1)
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["cwd"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return arguments


def _import_all() -> None:
    import aiodns  # noqa: F401
    import aiohttp.web  # noqa: F401
    import botocore.session  # noqa: F401
    import uvloop  # noqa: F401

    import tidegate_proxy.proxy  # noqa: F401


if __name__ == "__main__":
    # Ctrl-C is for the test process, at whose end this one ends, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_all()
    from tidegate_proxy.cli import main

    assert threading.active_count() == 1, "a fork has no other thread"
    gc.collect()
    gc.freeze()
    main(_serve(socket.socket(fileno=int(sys.argv[1]))), prog_name="tidegate-proxy")
