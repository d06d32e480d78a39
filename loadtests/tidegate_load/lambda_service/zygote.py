"""The zygote: a single-threaded process that forks execution environments and reports their end.

It is run as a script by its path, so that nothing of this package is imported into an environment. It has
imported what every environment needs (psycopg with libpq, AWS's runtime client) but nothing of a function. It
speaks lines of JSON over the socket whose descriptor is its first argument:

- in: `{"start": ID, "interpreter": PATH or null, "directory": PATH, "handler": NAME, "log": PATH, "variables": {...}}`,
  `{"kill": ID}`, `{"terminate": ID}`
- out: `{"ready": true}`, `{"started": ID, "pid": PID}`, `{"failed": ID, "reason": TEXT}`,
  `{"exited": ID, "status": WAIT STATUS}`

When the socket ends, every environment is killed and the zygote exits; when the zygote dies, the kernel kills
them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1

# Not awslambdaric.bootstrap, awslambdaric.lambda_runtime_client or the C module runtime_client: as soon as they are
# loaded they read variables that only the environment has, the C module the address of the Runtime API.
PRELOAD = (
    "psycopg",
    "awslambdaric.lambda_config",
    "awslambdaric.lambda_context",
    "awslambdaric.lambda_runtime_exception",
    "awslambdaric.lambda_runtime_log_utils",
    "awslambdaric.lambda_runtime_marshaller",
    "concurrent.futures.thread",
    "logging",
    "traceback",
)

# Lambda's own limit on open files, whatever the service raised its limit to.
OPEN_FILES = 1024

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Zygote:
    """Forks, kills and reaps; its `serve` returns a request only in a new child."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.pids: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)

    def serve(self) -> dict[str, Any] | None:
        """Serve until the control socket ends (None); in a forked child, the request that it is to run."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._send({"ready": True})
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        pending = b""
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._woken.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                self._reap()
            if self.control.fileno() in ready:
                try:
                    chunk = self.control.recv(65536)
                except ConnectionResetError:  # the service was killed before it had read everything
                    chunk = b""
                if not chunk:
                    return None
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    if "kill" in request:
                        self._kill(request["kill"])
                    elif "terminate" in request:
                        self._terminate(request["terminate"])
                    elif self._fork(request):
                        return dict(request)

    def end(self) -> None:
        """Kill and reap every environment."""
        while self.pids:
            for environment in self.pids:
                self._kill(environment)
            self._reap()
            time.sleep(0.002)

    def _fork(self, request: dict[str, Any]) -> bool:
        """True in the child."""
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send({"failed": request["start"], "reason": str(error)})
            return False
        if pid == 0:
            # A group of its own: what the function starts dies with it. Not a session of its own: the kernel may share
            # out the processors by session (autogroup), and hundreds of them would starve everyone who feeds them.
            os.setpgid(0, 0)
            os.nice(19)
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the zygote died before the line above
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self.control, self._wake, self._woken):
                end.close()
            return True
        self.pids[request["start"]] = pid
        self.ids[pid] = request["start"]
        self._send({"started": request["start"], "pid": pid})
        return False

    def _kill(self, environment: int) -> None:
        # Its pid cannot have been recycled: it stays in the table until it is reaped.
        pid = self.pids.get(environment)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):  # forked, and has not made its group yet
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)

    def _terminate(self, environment: int) -> None:
        pid = self.pids.get(environment)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        while self.pids:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return
            # Before the leader is reaped, so that the group's number still means this group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(found.si_pid, signal.SIGKILL)
            _, status = os.waitpid(found.si_pid, 0)
            environment = self.ids.pop(found.si_pid)
            del self.pids[environment]
            self._send({"exited": environment, "status": status})

    def _send(self, message: dict[str, Any]) -> None:
        # The service may be gone; then the next read says so.
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps(message).encode() + b"\n")


def run_environment(request: dict[str, Any]) -> None:
    """Become the execution environment that `request` describes; returns or raises when its runtime ends."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    variables: dict[str, str] = request["variables"]
    os.chdir(request["directory"])
    if request["interpreter"]:
        command = [request["interpreter"], "-m", "awslambdaric", request["handler"]]
        os.execve(command[0], command, variables)  # noqa: S606 (our own interpreter, or one that our user names)
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    sys.path.insert(0, request["directory"])
    sys.argv = ["bootstrap", request["handler"]]
    from awslambdaric.__main__ import main

    main(sys.argv)


def _main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOAD if sys.argv[2] == "preload" else ():
        importlib.import_module(module)
    zygote = Zygote(control)
    # Frozen objects are not touched by the children's collections, so their pages stay shared.
    gc.collect()
    gc.freeze()
    request = zygote.serve()
    if request is None:
        zygote.end()
    else:
        run_environment(request)


if __name__ == "__main__":
    _main()
