"""How much slower the machine is than it would be if the tests had it to themselves."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

# It does not outlive tests that were killed.
_PROBE = """
import os
import time
parent = os.getppid()
while os.getppid() == parent:
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.005:
        pass
    print(wall, time.monotonic(), time.process_time() - cpu, flush=True)
    time.sleep(0.045)
"""


class Slowdown:
    """A process that works for a tenth of its time, and notes how long that took. Use it as a context manager."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._notes = Path(self._folder.name) / "notes"

    def __enter__(self) -> Self:
        with self._notes.open("wb") as notes:
            self._process = subprocess.Popen([sys.executable, "-c", _PROBE], stdout=notes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def between(self, begin: float, end: float) -> float:
        """How many times as long as on a processor of its own work took then, at least 1.

        Parameters: `begin`, `end`, monotonic time in seconds; whatever was under way at some time between them counts.
        """
        wall = cpu = 0.0
        for line in self._notes.read_text().splitlines():
            began, ended, worked = map(float, line.split())
            if began < end and ended > begin:
                wall += ended - began
                cpu += worked
        return max(1.0, wall / cpu) if cpu else 1.0


@pytest.fixture
def slowdown() -> Iterator[Slowdown]:
    """Measures it during the test."""
    with Slowdown() as measured:
        yield measured
