"""Handlers that the tests invoke; this module runs inside execution environments."""

import http.client
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

Event = dict[str, Any]

RUNTIME_API = os.environ["AWS_LAMBDA_RUNTIME_API"]

invocations = 0


def echo(event: Event, context: Any) -> Event:
    """Wait until the file `wait_for` exists, write the file `touch`, and say who answers."""
    global invocations
    invocations += 1
    while "wait_for" in event and not Path(event["wait_for"]).exists():
        time.sleep(0.005)
    if "touch" in event:
        with Path(event["touch"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    sys.stdout.write(f"echo says {event.get('say', 'nothing')}\n")
    return {"event": event, "pid": os.getpid(), "invocations": invocations, "api": RUNTIME_API}


def describe(event: Event, context: Any) -> Event:
    """What the environment looks like from inside."""
    return {
        "variables": dict(os.environ),
        "directory": str(Path.cwd()),
        "path": sys.path[0],
        "parent": os.getppid(),
        "modules": sorted(sys.modules),
        "files": sorted(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in _open_files()),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "libpq": psycopg.pq.version(),
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "remaining": context.get_remaining_time_in_millis(),
        "request_id": context.aws_request_id,
        "custom": context.client_context.custom if context.client_context else None,
    }


def _open_files() -> list[int]:
    found = []
    for fd in range(256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found


def fail(event: Event, context: Any) -> None:
    """An exception that the handler does not catch."""
    raise KeyError("no such tide")


def leave(event: Event, context: Any) -> None:
    """The process ends in the middle of an invocation."""
    os._exit(event["status"])


def hang(event: Event, context: Any) -> None:
    """Never answers; whoever ends it politely finds `goodbye` written."""
    signal.signal(signal.SIGTERM, lambda *_: Path(event["goodbye"]).write_text("SIGTERM"))
    Path(event["touch"]).write_text(str(os.getpid()))
    try:
        while True:
            time.sleep(1)
    finally:
        Path(event["goodbye"]).write_text("unwound")


def child(event: Event, context: Any) -> int:
    """Leaves a process behind that lives for long."""
    return subprocess.Popen(["sleep", "1000"]).pid


def large(event: Event, context: Any) -> str:
    """An answer of `size` bytes, quotes included."""
    size: int = event["size"]
    return "x" * (size - 2)


def out_of_turn(event: Event, context: Any) -> Event:
    """The statuses of Runtime API calls that are not due."""
    prefix = "/2018-06-01/runtime"
    calls = {
        "next": ("GET", f"{prefix}/invocation/next"),
        "response": ("POST", f"{prefix}/invocation/other/response"),
        "init": ("POST", f"{prefix}/init/error"),
        "unknown": ("GET", f"{prefix}/something"),
    }
    statuses = {}
    for name, (method, path) in calls.items():
        connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        connection.request(method, path, body=b"{}" if method == "POST" else None)
        statuses[name] = connection.getresponse().status
        connection.close()
    return statuses
