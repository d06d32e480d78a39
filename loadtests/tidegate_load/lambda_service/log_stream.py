"""The log stream of one execution environment: a file of its output, with Lambda's own lines between."""

from __future__ import annotations

import math
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path

TAIL = 4096
"""Bytes of log that an invocation with LogType=Tail gets."""


class LogStream:
    """A file in `folder`, named as in CloudWatch Logs but for the characters that a file system dislikes."""

    def __init__(self, folder: Path) -> None:
        token = secrets.token_hex(16)
        now = datetime.now(UTC)
        self.name = f"{now:%Y/%m/%d}/[$LATEST]{token}"
        self.path = folder / f"{now:%Y-%m-%d}-{token}.log"
        # The function may write to it only by appending, so its lines and ours never overwrite each other.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.write(f"INIT_START Runtime Version: python:{sys.version_info.major}.{sys.version_info.minor}")

    def write(self, line: str) -> None:
        """Append one line."""
        os.write(self._descriptor, line.encode(errors="replace") + b"\n")

    def report(
        self, request_id: str, milliseconds: float, memory: int, init_milliseconds: float | None, status: str
    ) -> None:
        """The END and REPORT lines of one invocation."""
        parts = [
            f"REPORT RequestId: {request_id}",
            f"Duration: {milliseconds:.2f} ms",
            f"Billed Duration: {math.ceil(milliseconds)} ms",
            f"Memory Size: {memory} MB",
        ]
        if init_milliseconds is not None:
            parts.append(f"Init Duration: {init_milliseconds:.2f} ms")
        if status:
            parts.append(f"Status: {status}")
        self.write(f"END RequestId: {request_id}\n" + "\t".join(parts))

    def size(self) -> int:
        """Bytes written so far, by anyone."""
        return os.fstat(self._descriptor).st_size

    def tail(self, since: int) -> bytes:
        """The last 4 KB of what was written after the first `since` bytes."""
        end = self.size()
        start = max(since, end - TAIL)
        return os.pread(self._descriptor, end - start, start)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        os.close(self._descriptor)
