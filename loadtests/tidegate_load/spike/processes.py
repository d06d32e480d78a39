"""Child processes of the spike: started in a session of their own, watched, and always ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tidegate_load.clean_environment import clean_environment


class StepError(Exception):
    """A step of the spike broke; the message is one line that says which and what to look at."""


class Child:
    """One process with its output in a log file.

    Parameters: `name`, for messages; `arguments`; `log`, file for its standard output and error;
    `grace`, seconds that it may take to end when asked, before it is killed; `environment`, its variables, by default
    `clean_environment()`.
    Its own session keeps the terminal's Ctrl-C from it: it is stopped in order, by us.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        grace: float = 10.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._grace = grace
        self.cpu_seconds = 0.0
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environment() if environment is None else environment,
                start_new_session=True,
            )
        self._watch = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, None while it runs; also takes a note of the CPU time it has used."""
        with contextlib.suppress(psutil.Error):
            times = self._watch.cpu_times()
            self.cpu_seconds = max(self.cpu_seconds, times.user + times.system)
        return self._process.poll()

    def stop(self) -> int:
        """SIGTERM, after `grace` seconds SIGKILL to its whole session; returns its exit status."""
        if self.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._grace)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def last_line(self) -> str:
        """The last line of its log that is not empty."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")

    def failure(self, what: str) -> StepError:
        """An error about this process: what was expected, its last words, where its log is."""
        return StepError(f"{self.name} {what}: {self.last_line()} (log: {self.log})")
