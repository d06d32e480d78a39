"""The picture: one column per run, one row per question, the same scale across each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tidegate_load.spike.recording import Recording
from tidegate_load.spike.series import in_flight, windows

PANELS = (
    "Invocations per second",
    "Errors by kind",
    "Latency (ms)",
    "Open database connections",
    "Cold starts per second",
    "Invocations in flight",
)
"""What each row of the picture shows."""

_GOOD, _BAD, _INK, _GRID = "#2a7f9e", "#cf4a3c", "#33373d", "#e4e7ea"
_PERCENTILES = (("p50", "#9cc7d8"), ("p95", "#4b9ab8"), ("p99", "#17485c"))
_MAX_KINDS = 6
_MAX_STEPS = 2000


def draw(recordings: Sequence[Recording], path: Path) -> None:
    """Write the picture of one or several runs, side by side, as PNG.

    Parameters: `recordings` in the order of the columns, at least one; `path` of the PNG file.
    """
    compose(recordings).savefig(path, dpi=130)


def compose(recordings: Sequence[Recording]) -> Any:
    """The picture as a matplotlib Figure; parameters as `draw`."""
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(recordings)
    figure = Figure(figsize=(4.6 * columns + 0.8, 2.25 * len(PANELS)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(PANELS), columns, squeeze=False)
    rows: tuple[Callable[[Any, Recording], None], ...] = (
        _throughput,
        _errors,
        _latency,
        _connections,
        _cold_starts,
        _in_flight,
    )
    for row, (title, panel) in enumerate(zip(PANELS, rows, strict=True)):
        for column, recording in enumerate(recordings):
            axes = grid[row][column]
            _plain(axes)
            panel(axes, recording)
            axes.set_title(title, loc="left", fontsize=9.5, color=_INK)
            if row == 0:
                axes.annotate(
                    recording.title,
                    (0, 1.22),
                    xycoords="axes fraction",
                    fontsize=14,
                    fontweight="bold",
                    color=_INK,
                )
        _same_scale(grid[row], horizontal=panel is _errors)
    duration = max(
        (max((each.end for each in run.invocations), default=0.0) - run.start for run in recordings),
        default=1.0,
    )
    for row, panel in enumerate(rows):
        if panel is not _errors:
            for axes in grid[row]:
                axes.set_xlim(0, max(duration, 1.0))
    for axes in grid[-1]:
        axes.set_xlabel("seconds since the first invocation", fontsize=8.5, color=_INK)
    return figure


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8bec5")
    axes.tick_params(labelsize=8, colors=_INK, length=3)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _same_scale(row: Sequence[Any], *, horizontal: bool) -> None:
    if horizontal:
        top = max(axes.get_xlim()[1] for axes in row)
        for axes in row:
            axes.set_xlim(0, top)
        return
    limits = [axes.get_ylim() for axes in row]
    for axes in row:
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _legend(axes: Any, **keywords: Any) -> None:
    axes.legend(fontsize=7.5, frameon=False, ncols=3, **{"loc": "upper right"} | keywords)


def _throughput(axes: Any, run: Recording) -> None:
    points = windows(run.invocations)
    starts = [point.start for point in points]
    good = [point.succeeded for point in points]
    axes.bar(starts, good, width=0.9, align="edge", color=_GOOD, label="succeeded")
    axes.bar(
        starts,
        [point.failed for point in points],
        bottom=good,
        width=0.9,
        align="edge",
        color=_BAD,
        label="failed",
    )
    axes.set_ylim(0, max((point.succeeded + point.failed for point in points), default=1) * 1.25)
    _legend(axes)


def _errors(axes: Any, run: Recording) -> None:
    axes.grid(visible=False)
    axes.set_yticks([])
    kinds = list(run.errors.items())
    shown = kinds[:_MAX_KINDS]
    if rest := sum(count for _, count in kinds[_MAX_KINDS:]):
        shown.append((f"{len(kinds) - _MAX_KINDS} other kinds", rest))
    axes.set_xlim(0, max((count for _, count in shown), default=1) * 1.1)
    axes.set_ylim(-max(len(shown), 3) + 0.4, 0.7)
    if not shown:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", fontsize=13, color=_GOOD)
    for index, (kind, count) in enumerate(shown):
        axes.barh(-index, count, height=0.4, color=_BAD)
        label = f"{count:,}  {kind}"
        text = axes.text(
            0.01,
            -index + 0.27,
            label,
            transform=axes.get_yaxis_transform(),
            fontsize=8,
            va="bottom",
            color=_INK,
        )
        text.set_in_layout(False)  # else a long one would make its column wider than the others


def _latency(axes: Any, run: Recording) -> None:
    points = [point for point in windows(run.invocations) if not math.isnan(point.p50)]
    middles = [point.start + 0.5 for point in points]
    for name, colour in _PERCENTILES:
        values = [max(getattr(point, name), 1.0) for point in points]
        axes.plot(middles, values, color=colour, linewidth=1.6, marker=".", markersize=4, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(axes, loc="lower right")


def _connections(axes: Any, run: Recording) -> None:
    if not run.connections:
        axes.text(0.5, 0.5, "not sampled", transform=axes.transAxes, ha="center", fontsize=10, color=_INK)
        return
    times = [sample.time - run.start for sample in run.connections]
    totals = [sample.total for sample in run.connections]
    axes.fill_between(times, totals, step="post", color=_GOOD, alpha=0.25, linewidth=0)
    axes.step(times, totals, where="post", color=_GOOD, linewidth=1.4, label=f"open (most: {max(totals)})")
    if run.max_connections:
        label = f"max_connections = {run.max_connections}"
        axes.axhline(run.max_connections, color=_BAD, linewidth=1.2, linestyle="--", label=label)
    axes.set_ylim(0, max(run.max_connections or 0, *totals) * 1.3)
    _legend(axes)


def _cold_starts(axes: Any, run: Recording) -> None:
    points = windows(run.invocations)
    values = [point.cold_starts for point in points]
    axes.bar([point.start for point in points], values, width=0.9, align="edge", color="#8a6fb0")
    axes.set_ylim(0, max([1, *values]) * 1.25)
    axes.text(
        0.99,
        0.9,
        f"{run.cold_starts:,} in all",
        transform=axes.transAxes,
        ha="right",
        fontsize=7.5,
        color=_INK,
    )


def _in_flight(axes: Any, run: Recording) -> None:
    steps = in_flight(run.invocations)
    thinned = steps[:: max(1, len(steps) // _MAX_STEPS)]
    axes.step(
        [moment - run.start for moment, _ in thinned],
        [count for _, count in thinned],
        where="post",
        color=_INK,
        linewidth=1.2,
        label="sent, not answered",
    )
    if run.environments:
        axes.step(
            [sample.time - run.start for sample in run.environments],
            [sample.busy for sample in run.environments],
            where="post",
            color="#8a6fb0",
            linewidth=1.2,
            label="busy environments",
        )
    axes.set_ylim(0, max((count for _, count in steps), default=1) * 1.3)
    _legend(axes)
