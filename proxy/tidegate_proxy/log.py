"""Log records on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from tidegate_proxy.settings import Settings
from tidegate_proxy.settings.errors import one_line

# What every record has; anything else in it came as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_QUIET = ("botocore", "boto3", "urllib3", "s3transfer", "aiohttp")
"""Libraries that log what they send and receive at level DEBUG, passwords and credentials with it. What fails in them
is an error of ours, in one line; botocore would add pages of tracebacks."""


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """`2025-01-31T12:00:00.000Z INFO tidegate_proxy.proxy: message`, in UTC, then the traceback if there is
    one."""

    def format(self, record: logging.LogRecord) -> str:
        # A client chooses its user name; it must not be able to write log lines.
        message = one_line(record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: the fields given as `extra`, then ts, level, logger, message, and exception
    if any."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        fields |= {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def setup_logging(settings: Settings) -> None:
    """Send every logger's records to standard error, in place of whatever handled them before.

    For the proxy's own process. A program that embeds the proxy leaves this out and keeps its own handlers.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        # Of its own, so that no change of the root's level undoes it.
        logging.getLogger(name).setLevel(logging.CRITICAL)
