"""What the demo promises, checked against what was recorded. Nothing here measures or waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate_load.spike.outcomes import FULL, OK
from tidegate_load.spike.recording import Recording
from tidegate_load.spike.series import at_the_peak, peak_in_flight

DIRECT = "direct"
LAYER = "layer"
PROXY = "layer-and-proxy"

LARGE_SHARE = 0.5
"""Least share of those at the peak that must fail for the direct run to show what everyone knows.

It is taken at the peak: later the few that hold a connection answer fast and are called again and again, while the
many without one fail slowly: over the whole run that hides how many callers get nothing but errors.
"""


@dataclass(frozen=True)
class Promise:
    """One promise, whether the recorded runs keep it, and what was seen."""

    text: str
    kept: bool
    seen: str


def demo_promises(recordings: Mapping[str, Recording]) -> list[Promise]:
    """All promises of the demo, in the order in which a reader wants them.

    Parameters: `recordings` by name (DIRECT, LAYER, PROXY), where a missing run is a broken promise. How much was
    promised is what each run was asked for: its parameters `peak`, `min_invocations` and `pool_size`.
    """
    found = []
    for name, check in ((DIRECT, _direct), (LAYER, _layer), (PROXY, _proxied)):
        run = recordings.get(name)
        found += check(run) if run else [Promise(f"{name}: was run", False, "no recording")]
    return found


def _direct(run: Recording) -> list[Promise]:
    peaking = at_the_peak(run.invocations)
    failed = sum(each.outcome != OK for each in peaking)
    share = failed / len(peaking) if peaking else 0.0
    return [
        _concurrency(run),
        Promise(
            f"{run.title}: at least {LARGE_SHARE:.0%} of the invocations at the peak fail",
            share >= LARGE_SHARE,
            f"{failed} of {len(peaking)} ({share:.0%}); {run.failed:,} of {len(run.invocations):,} over the whole run",
        ),
        Promise(
            f"{run.title}: most failures are {FULL!r}",
            run.errors.get(FULL, 0) * 2 > run.failed,
            f"{run.errors.get(FULL, 0):,} of {run.failed:,}",
        ),
        Promise(
            f"{run.title}: every connection of the database is used",
            run.max_connections is not None and run.peak_connections == run.max_connections,
            f"{run.peak_connections} of {run.max_connections}",
        ),
        _rows_with_failures(run),
    ]


def _layer(run: Recording) -> list[Promise]:
    return [_concurrency(run), _rows_with_failures(run)]


def _proxied(run: Recording) -> list[Promise]:
    min_invocations, pool_size = run.parameters["min_invocations"], run.parameters["pool_size"]
    total = len(run.invocations)
    connections = run.peak_connections_of(run.function_role) if run.function_role else 0
    accounting = run.accounting
    return [
        _concurrency(run),
        Promise(
            f"{run.title}: at least {min_invocations:,} invocations finish",
            total >= min_invocations,
            f"{total:,} in {_duration(run):.0f} s"
            if total >= min_invocations
            # Where some failed, they may be what took the time.
            else f"only {total:,} of {min_invocations:,} finished in {_duration(run):.0f} s"
            + ("" if run.failed else ": the machine is too busy"),
        ),
        Promise(
            f"{run.title}: no invocation fails",
            run.failed == 0 < total,
            f"{run.failed:,} of {total:,} failed",
        ),
        Promise(
            f"{run.title}: at most {pool_size} server connections",
            0 < connections <= pool_size,
            f"{connections} at most",
        ),
        Promise(
            f"{run.title}: every committed row is accounted for",
            accounting is not None
            and 0 < accounting.stored == accounting.said == total
            and accounting.lost == accounting.extra == 0,
            "not counted"
            if accounting is None
            else f"{accounting.stored:,} in the table, {accounting.said:,} said to be committed, "
            f"{accounting.lost} lost, {accounting.extra} too many",
        ),
    ]


def _concurrency(run: Recording) -> Promise:
    peak = run.parameters["peak"]
    callers = peak_in_flight(run.invocations)
    environments = run.service.get("peak_environments", 0)
    return Promise(
        f"{run.title}: {peak} invocations at once are really reached",
        callers >= peak and environments >= peak,
        f"{callers} in flight, {environments} execution environments at once",
    )


def _duration(run: Recording) -> float:
    return max((each.end for each in run.invocations), default=run.start) - run.start


def _rows_with_failures(run: Recording) -> Promise:
    # An invocation may fail after its commit, so the table may hold more than was said, by at most the failures.
    accounting = run.accounting
    return Promise(
        f"{run.title}: rows are committed, and none is lost",
        accounting is not None and accounting.stored > 0 and accounting.lost == 0 and accounting.extra <= run.failed,
        "not counted"
        if accounting is None
        else f"{accounting.stored:,} in the table, {accounting.said:,} said to be committed, {accounting.lost} lost",
    )
