"""What became of one invocation, as a short kind that can be counted and that carries no values.

Knows nothing of Locust or boto3's client: it is given what `lambda.invoke` returned or raised.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

OK = "ok"
"""The kind of an invocation that did what it was asked to."""

FULL = "too many clients already"
"""The kind of a failure for want of a free connection in the database."""

# First match wins. The texts are PostgreSQL's, libpq's, Lambda's and the proxy's own words.
_KNOWN = (
    (re.compile(r"too many clients already"), FULL),
    (re.compile(r"remaining connection slots are reserved"), FULL),
    (re.compile(r"too many connections for (role|database)"), "too many connections for role or database"),
    (re.compile(r"task timed out", re.I), "Task timed out"),
    (re.compile(r"borrow_timeout"), "proxy: borrow_timeout"),
    (re.compile(r"max_client_conn"), "proxy: max_client_conn"),
    (re.compile(r"(connection|connect) timeout|timeout expired", re.I), "connection timeout"),
    (re.compile(r"connection refused", re.I), "connection refused"),
    (re.compile(r"password authentication failed"), "password authentication failed"),
    (
        re.compile(r"server closed the connection|connection (was |is )?(lost|closed|reset)", re.I),
        "connection lost",
    ),
    (re.compile(r"before the deadline"), "no connection before the deadline"),
    (re.compile(r"Runtime exited .*signal: killed"), "runtime was killed"),
    (re.compile(r"Runtime exited"), "runtime exited"),
)

_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NUMBER = re.compile(r"[0-9a-f]*\d[0-9a-f.:-]*", re.I)
_MAX_KIND = 60


@dataclass(frozen=True, slots=True)
class Outcome:
    """Kind of one invocation's end, and whether its function said that it committed."""

    kind: str
    committed: bool = False

    @property
    def ok(self) -> bool:
        """Whether the invocation succeeded."""
        return self.kind == OK


def kind_of_error(error_type: str, message: str) -> str:
    """Short name of a failure.

    Parameters: `error_type`, the exception's class; `message`, its text.
    Returns: a known kind, or the type and the message's first line with quoted texts and numbers taken out.
    """
    for pattern, kind in _KNOWN:
        if pattern.search(message) or pattern.search(error_type):
            return kind
    first = next((line.strip() for line in message.splitlines() if line.strip()), "")
    short = _NUMBER.sub("N", _QUOTED.sub("…", first))
    name = error_type or "Error"
    text = f"{name}: {short}" if short else name
    return text if len(text) <= _MAX_KIND else text[: _MAX_KIND - 1] + "…"


def outcome_of_answer(function_error: str | None, payload: bytes) -> Outcome:
    """Outcome of an invocation that the service answered with status 200.

    Parameters: `function_error`, the FunctionError field (None if the function returned); `payload`, the body.
    """
    try:
        body: Any = json.loads(payload) if payload else None
    except ValueError:
        return Outcome("answer is not JSON")
    if function_error:
        fields = body if isinstance(body, dict) else {}
        message = str(fields.get("errorMessage", function_error))
        return Outcome(kind_of_error(str(fields.get("errorType", "")), message))
    return Outcome(OK, committed=isinstance(body, dict) and body.get("committed") is True)


def outcome_of_exception(error: Exception) -> Outcome:
    """Outcome of an invocation for which `lambda.invoke` raised: throttling, a refused or broken connection."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        code = str(response.get("Error", {}).get("Code", "unknown"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return Outcome("throttled (429)" if status == 429 else f"service error: {code}")
    name = type(error).__name__
    if "ReadTimeout" in name:
        return Outcome("no answer within the read timeout")
    if "EndpointConnection" in name or "ConnectTimeout" in name:
        return Outcome("Lambda service not reachable")
    if "ConnectionClosed" in name or "HTTPClientError" in name or isinstance(error, ConnectionError):
        return Outcome("connection to the Lambda service lost")
    return Outcome(f"client error: {name}")


def is_cold_start(headers: dict[str, str], log_result: str | None) -> bool:
    """Whether an environment was started for this invocation.

    Parameters: `headers`, the answer's, names in lower case: the local service says it there; `log_result`, the
    base64 log tail that Lambda returns on request, whose REPORT line has an init duration on a cold start.
    """
    local = headers.get("x-tidegate-cold-start")
    if local is not None:
        return local == "1"
    if not log_result:
        return False
    try:
        return b"Init Duration:" in base64.b64decode(log_result)
    except binascii.Error:
        return False
