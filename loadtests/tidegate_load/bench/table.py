"""A run on the terminal: one table per scenario."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tidegate_load.bench.measurements import REFERENCE, Metric, Run
from tidegate_load.bench.scenarios import Scenario
from tidegate_load.bench.stats import Spread


def shown(metric: Metric, value: Spread | None) -> tuple[str, str]:
    """Median and quartiles as text, or a dash."""
    if value is None:
        return "-", ""
    median, low, high = (f"{number:,.{metric.digits}f}" for number in (value.median, value.low, value.high))
    return median, f"{low}…{high}" if value.count > 1 else ""


def shown_ratio(value: Spread | None) -> str:
    """A median ratio as text."""
    return "" if value is None else f"{value.median:.2f}"


def table(run: Run, scenario: Scenario) -> Table:
    """Medians, quartiles, and ratios to the reference, of every case and endpoint."""
    compared = REFERENCE in run.endpoint_keys(scenario.key)
    made = Table(title=scenario.title, title_justify="left", title_style="bold", expand=False)
    for header in ("case", "endpoint"):
        made.add_column(header, no_wrap=header == "endpoint")
    used = used_metrics(run, scenario)
    for metric in used:
        made.add_column(f"{metric.title}\n\\[{metric.unit}]" if metric.unit else metric.title, justify="right")
    for case in run.cases(scenario.key):
        present = run.endpoint_keys(scenario.key, case)
        for number, endpoint in enumerate(present):
            cells = []
            for metric in used:
                median, quartiles = shown(metric, run.spread(scenario.key, case, endpoint, metric.key))
                ratio = ""
                if compared and metric.ratio and endpoint != REFERENCE:
                    ratio = shown_ratio(run.ratio(scenario.key, case, endpoint, metric.key))
                below = f"\n[dim]{quartiles}[/dim]" if quartiles else ""
                cells.append(f"{median}{f' ({ratio})' if ratio else ''}{below}")
            made.add_row("" if number else case, run.title(endpoint), *cells, end_section=endpoint == present[-1])
    return made


def used_metrics(run: Run, scenario: Scenario) -> list[Metric]:
    """Those metrics of a scenario that have a value."""
    seen = {key for each in run.measurements if each.scenario == scenario.key for key in each.values}
    return [metric for metric in scenario.metrics if metric.key in seen]


def show(console: Console, run: Run, scenarios: list[Scenario]) -> None:
    """Print the tables, what failed and what is to be kept in mind."""
    for scenario in scenarios:
        if scenario.key in run.scenarios():
            console.print()
            console.print(table(run, scenario))
    if REFERENCE in {each.endpoint for each in run.measurements}:
        console.print("(N) is the median of the ratios to PgBouncer, round by round.", style="dim")
    for info in run.endpoints:
        if info.version is None:
            console.print(f"{info.title} is not part of this run: {info.remark}", highlight=False)
    for remark in run.remarks:
        console.print(remark, highlight=False)
    for failure in run.failures:
        where = f"{failure.scenario}: {failure.case}, {run.title(failure.endpoint)}"
        console.print(f"failed: {where}: {failure.error}", style="red", highlight=False)
