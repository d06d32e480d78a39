"""A picture per scenario: one panel per metric, bars with quartiles, endpoints in the same colour everywhere."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from tidegate_load.bench.measurements import Metric, Run
from tidegate_load.bench.scenarios import Scenario
from tidegate_load.bench.table import used_metrics

_INK, _GRID = "#33373d", "#e4e7ea"
_COLOURS = {
    "direct": "#9aa3ad",
    "pgbouncer": "#cf8a3c",
    "tidegate-compiled": "#17485c",
    "tidegate-interpreted": "#4b9ab8",
    "odyssey": "#8a6fb0",
    "pgagroal": "#7a9a4b",
    "pgcat": "#cf4a3c",
    "bare": "#9aa3ad",
    "layer": "#17485c",
    "psycopg": "#cf8a3c",
    "boto3": "#8a6fb0",
    "wrapper": "#cf4a3c",
}
_WIDTH = 8.6
_BAR = 0.2  # inches
_LABEL = 22  # characters


def file_name(scenario: Scenario) -> str:
    """Name of a scenario's picture."""
    return f"{scenario.name}.png"


def draw(run: Run, scenario: Scenario, folder: Path) -> Path:
    """Write a scenario's picture as PNG and return its path. Raises: OSError."""
    # Imported here: it takes a second, and most commands draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = used_metrics(run, scenario)
    rows = sum(len(run.endpoint_keys(scenario.key, case)) + 1 for case in run.cases(scenario.key))
    columns = 2 if len(metrics) > 1 else 1
    lines = -(-len(metrics) // columns)
    height = lines * (0.75 + _BAR * rows) + 0.7
    figure = Figure(figsize=((_WIDTH / 2 + 1.4) * columns, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(metrics):
            _panel(axes, run, scenario, metrics[number], rows)
        else:
            axes.set_axis_off()
    figure.suptitle(scenario.title, fontsize=11.5, fontweight="bold", color=_INK, x=0.01, ha="left")
    _legend(figure, run, scenario)
    path = folder / file_name(scenario)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _panel(axes: Any, run: Run, scenario: Scenario, metric: Metric, rows: int) -> None:
    position, top = 0, 0.0
    ticks, names, texts = [], [], []
    for case in run.cases(scenario.key):
        values = {key: run.spread(scenario.key, case, key, metric.key) for key in run.endpoint_keys(scenario.key, case)}
        shown = {key: value for key, value in values.items() if value is not None}
        if not shown:
            continue
        ticks.append(position + (len(shown) - 1) / 2)
        names.append(textwrap.fill(case, _LABEL))
        for endpoint, value in shown.items():
            axes.barh(
                position,
                value.median,
                height=0.8,
                color=_COLOURS.get(endpoint, _INK),
                xerr=[[value.median - value.low], [value.high - value.median]] if value.count > 1 else None,
                error_kw={"ecolor": _INK, "elinewidth": 0.9, "capsize": 2},
            )
            texts.append((max(value.high, 0.0), position, f"{value.median:,.{metric.digits}f}"))
            top = max(top, value.high)
            position += 1
        position += 1
    for right, height, text in texts:
        axes.text(right + top * 0.015, height, text, va="center", fontsize=7, color=_INK)
    axes.set_xlim(min(0.0, axes.get_xlim()[0]), top * 1.16 or 1.0)
    axes.set_ylim(rows - 0.8, -0.8)
    axes.set_yticks(ticks, names, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8bec5")
    axes.tick_params(labelsize=8, colors=_INK, length=3)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    better = f"{metric.better} is better"
    axes.set_title(metric.title, loc="left", fontsize=9.5, color=_INK)
    axes.set_xlabel(f"{metric.unit} ({better})" if metric.unit else better, fontsize=8, color=_INK)


def _legend(figure: Any, run: Run, scenario: Scenario) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=_COLOURS.get(endpoint, _INK), label=run.title(endpoint))
        for endpoint in run.endpoint_keys(scenario.key)
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=5, fontsize=8, frameon=False)
