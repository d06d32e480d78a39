"""One invocation, its answer, and the errors that Lambda words for a function that could not answer."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
import uuid
from dataclasses import dataclass, field

MAX_PAYLOAD = 6 * 1024 * 1024
"""Bytes of an event of a synchronous invocation; answers may have 100 bytes more, as in Lambda."""
MAX_RESPONSE = MAX_PAYLOAD + 100
MAX_EVENT_PAYLOAD = 1024 * 1024
"""Bytes of an event of an asynchronous invocation."""


@dataclass(slots=True)
class Answer:
    """What the invoker gets: the function's result, or its error as JSON where `failed`."""

    payload: bytes
    failed: bool = False
    timed_out: bool = False
    init_failed: bool = False
    log_tail: bytes = b""


@dataclass(slots=True, eq=False)
class Invocation:
    """An event on its way through an execution environment.

    `done` gets the answer, or None where the environment was gone before it had fetched the event.
    """

    payload: bytes
    arn: str
    done: asyncio.Future[Answer | None]
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    trace_id: str = field(
        default_factory=lambda: (
            f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
        )
    )
    client_context: str | None = None
    wants_log: bool = False
    delivered: bool = False
    deadline_ms: int = 0
    started: float = 0.0
    log_start: int = 0


def error_answer(error_type: str, message: str, *, timed_out: bool = False, init_failed: bool = False) -> Answer:
    """An answer that the service words itself, because the function cannot."""
    payload = json.dumps({"errorType": error_type, "errorMessage": message}).encode()
    return Answer(payload, failed=True, timed_out=timed_out, init_failed=init_failed)


def timeout_text(seconds: float) -> str:
    """Lambda's words for a time-out."""
    return f"Task timed out after {seconds:.2f} seconds"


def exit_text(wait_status: int) -> str:
    """Lambda's words for a runtime process that ended, from its wait status."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code == 0:
        return "Runtime exited without providing a reason"
    if code < 0:
        return f"Runtime exited with error: signal: {'killed' if code == -9 else -code}"
    return f"Runtime exited with error: exit status {code}"
