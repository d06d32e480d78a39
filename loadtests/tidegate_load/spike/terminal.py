"""What the spike shows on a terminal: one line per scenario while it runs, a short table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tidegate_load.spike.promises import Promise
from tidegate_load.spike.recording import Recording
from tidegate_load.spike.scenario import Progress
from tidegate_load.spike.summary import summary_rows

LINE_INTERVAL = 5.0
"""Seconds between lines where the output is not a terminal."""


def make_console() -> Console:
    """A console on standard output; a file or a pipe gets lines wide enough for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


class Display:
    """Shows progress: a table that changes in place on a terminal, else a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: dict[str, Progress] = {}
        self._live: Live | None = None
        self._last_line = 0.0
        self._last_phase = ("", "")

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Progress) -> None:
        """Show the newest state of one scenario."""
        self._progress[progress.title] = progress
        if self._live is not None:
            self._live.update(self._table())
            return
        phase = (progress.title, progress.phase)
        if phase != self._last_phase or time.monotonic() - self._last_line >= LINE_INTERVAL:
            self._last_phase = phase
            self._last_line = time.monotonic()
            self.console.print(
                f"{progress.title}: {progress.phase}, {progress.environments} environments, "
                f"{progress.in_flight} in flight, {progress.done} done, {progress.failed} failed, "
                f"{progress.connections} of {progress.max_connections} connections",
                highlight=False,
                soft_wrap=True,
            )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        table.add_column("phase", min_width=8)
        for name in ("environments", "in flight", "done", "failed", "connections"):
            table.add_column(name, justify="right")
        for each in self._progress.values():
            failed = f"[red]{each.failed:,}[/]" if each.failed else "0"
            table.add_row(
                each.title,
                each.phase,
                f"{each.environments:,}",
                f"{each.in_flight:,}",
                f"{each.done:,}",
                failed,
                f"{each.connections} of {each.max_connections}",
            )
        return table


def summary_table(recordings: Sequence[Recording]) -> Table:
    """The short table of the end."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for run in recordings:
        table.add_column(run.title, overflow="fold")
    for question, answers in summary_rows(recordings):
        table.add_row(question, *answers)
    return table


def show_promises(console: Console, promises: Sequence[Promise]) -> None:
    """One line per promise: kept or broken, and what was seen."""
    for promise in promises:
        mark = "[green]kept[/]  " if promise.kept else "[bold red]broken[/]"
        console.print(f"{mark} {promise.text}: {promise.seen}", highlight=False, soft_wrap=True)
