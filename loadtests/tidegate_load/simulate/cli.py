"""The command `tidegate-simulate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tidegate_load.simulate.fleet import SCENARIO, SECONDS, Event, Sample, Simulation, settled_after

_ENDS = [*(event.at for event in SCENARIO[1:]), SECONDS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", default=1, show_default=True, help="Of the random numbers.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("reports/fleet.png"),
    show_default=True,
    help="Where to write the picture.",
)
def main(seed: int, plot: Path) -> None:
    """Simulate a fleet of 200 proxies with 100,000 clients, with the proxy's own planner.

    Exit status: 1 if the number of connections has ever exceeded the budget.
    """
    samples = Simulation(SCENARIO, seed=seed).run(SECONDS)
    click.echo("\n".join(table(samples)))
    plot.parent.mkdir(parents=True, exist_ok=True)
    draw(samples, plot)
    click.echo(f"\nPicture: {plot}")
    over = above_budget(samples)
    click.echo(f"Above the budget: {over} of {len(samples)} moments" if over else "The budget was never exceeded.")
    sys.exit(1 if over else 0)


def above_budget(samples: Sequence[Sample]) -> int:
    """At how many moments there were too many connections; the minute in which the server's own limit shrinks counts
    from the moment on at which the fleet has had a chance to follow."""
    shrinks = [event.at for event in SCENARIO if event.max_connections]
    return sum(
        sample.connections > sample.budget for sample in samples if not any(at <= sample.at < at + 15 for at in shrinks)
    )


def table(samples: Sequence[Sample]) -> list[str]:
    """One line for each event."""
    lines = [f"{'event':<48} {'settled':>8} {'connections':>12} {'budget':>7} {'unmet':>6} {'queries/s':>10}"]
    for event, end in zip(SCENARIO, _ENDS, strict=True):
        part = [sample for sample in samples if event.at <= sample.at < end]
        last = [sample for sample in part if sample.at >= end - 10]
        unmet = sum(sample.unmet for sample in last) / max(1, sum(sample.demand for sample in last))
        lines.append(
            f"{event.what:<48} {settled_after(samples, event.at, end):>6.1f} s"
            f" {max(sample.connections for sample in last):>12} {part[-1].budget:>7} {unmet:>6.1%}"
            f" {sum(sample.queries for sample in part) / len(part):>10.0f}"
        )
    return lines


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Write the picture as PNG."""
    # Imported here: it takes a second, and --help draws nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    at = [sample.at for sample in samples]
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.5, 1.5))
    above.plot(at, [sample.budget for sample in samples], color="#cf4a3c", label="budget")
    above.plot(at, [sample.connections for sample in samples], color="#17485c", label="connections to the server")
    above.plot(at, [sample.shares for sample in samples], color="#4b9ab8", lw=0.8, label="sum of shares")
    above.plot(at, [sample.demand for sample in samples], color="#bbbbbb", lw=0.8, label="demand")
    above.set_ylim(0)
    above.legend(loc="center", fontsize=8)
    above.set_title("Server connections", loc="left", fontsize=10)
    middle.plot(at, [100 * sample.unmet / max(1, sample.demand) for sample in samples], color="#cf4a3c", lw=0.8)
    middle.set_title("Demand that the shares do not allow (%)", loc="left", fontsize=10)
    size = 8
    queries: list[Any] = [
        sum(sample.queries for sample in samples[max(0, index - size) : index + 1])
        / len(samples[max(0, index - size) : index + 1])
        for index in range(len(samples))
    ]
    below.plot(at, queries, color="#2a7f9e", lw=0.8)
    below.set_ylim(0)
    below.set_title("Queries per second for the fleet's own sake (mean of 2 s)", loc="left", fontsize=10)
    below.set_xlabel("seconds")
    for axes in (above, middle, below):
        _events(axes, SCENARIO, labels=axes is above)
    figure.savefig(path, dpi=110)


def _events(axes: Any, events: Sequence[Event], *, labels: bool) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    for event in events:
        axes.axvline(event.at, color="#e4e7ea", lw=1, zorder=0)
        if labels:
            words = event.what.replace(", ", ",\n").replace(" to a ", "\nto a ")
            axes.annotate(words, (event.at, 0.02), xycoords=("data", "axes fraction"), fontsize=6.5, color="#33373d")
