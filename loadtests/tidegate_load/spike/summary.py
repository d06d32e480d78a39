"""The short table: one row per question, one column per run; the same on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate_load.spike.outcomes import OK
from tidegate_load.spike.recording import Invocation, Recording
from tidegate_load.spike.series import at_the_peak, peak_in_flight, percentile


def summary_rows(recordings: Sequence[Recording]) -> list[tuple[str, list[str]]]:
    """Rows of the table: (question, one answer per run)."""
    questions: tuple[tuple[str, Callable[[Recording], str]], ...] = (
        ("invocations", lambda run: f"{len(run.invocations):,}"),
        ("most in flight at once", lambda run: f"{peak_in_flight(run.invocations):,}"),
        ("failed, of all", lambda run: _failed(run.invocations)),
        ("failed, at the peak", lambda run: _failed(at_the_peak(run.invocations))),
        ("most frequent error", lambda run: next(iter(run.errors), "none")),
        ("latency p50 / p99, all", lambda run: _latency([each.latency_ms for each in run.invocations])),
        (
            "latency p50 / p99, succeeded",
            lambda run: _latency([each.latency_ms for each in run.invocations if each.outcome == OK]),
        ),
        ("succeeded per second", _throughput),
        ("cold starts", lambda run: f"{run.cold_starts:,}"),
        ("database connections, most", _connections),
        ("rows committed / said so", _accounting),
    )
    return [(question, [answer(run) for run in recordings]) for question, answer in questions]


def _failed(invocations: Sequence[Invocation]) -> str:
    total = len(invocations)
    failed = sum(each.outcome != OK for each in invocations)
    return f"{failed:,} of {total:,} ({failed / total:.0%})" if total else "-"


def _latency(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{percentile(values, 0.5) / 1000:.2f} / {percentile(values, 0.99) / 1000:.2f} s"


def _throughput(run: Recording) -> str:
    if not run.invocations:
        return "-"
    duration = max(each.end for each in run.invocations) - run.start
    return f"{(len(run.invocations) - run.failed) / max(duration, 0.001):,.0f}"


def _connections(run: Recording) -> str:
    if not run.connections:
        return "not sampled"
    text = f"{run.peak_connections} of {run.max_connections}"
    if run.function_role:
        text += f", functions {run.peak_connections_of(run.function_role)}"
    return text


def _accounting(run: Recording) -> str:
    accounting = run.accounting
    if accounting is None:
        return "not counted"
    text = f"{accounting.stored:,} / {accounting.said:,}"
    if accounting.lost:
        text += f", {accounting.lost} lost"
    if accounting.extra:
        text += f", {accounting.extra} more than said"
    return text
