"""What the proxy is meant to reach, and whether a run reached it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidegate_load.bench.measurements import REFERENCE, Run
from tidegate_load.bench.stats import Spread, paired_ratios, spread

COMPILED, INTERPRETED = "tidegate-compiled", "tidegate-interpreted"

_OTHERS = ("odyssey", "pgagroal", "pgcat")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the table: `met` is None where the run does not tell."""

    what: str
    target: str
    seen: str
    met: bool | None


def verdicts(run: Run) -> list[Verdict]:
    """Every target, in the order of the page."""
    found: list[Verdict] = []
    for words in (("simple",), ("extended",), ("prepared",)):
        found += _ratios(run, "CPU per query", "a", ("plain", *words), "cpu", 1.1)
    found += _other_poolers(run)
    found += _ratios(run, "CPU per query", "a", ("tls",), "cpu", 1.2)
    found += _ratios(run, "throughput", "a", ("64", "clients"), "throughput", 0.95, at_least=True)
    found += _added_latency(run)
    found += _ratios(run, "storm, CPU per login", "b", ("plain", "scram"), "cpu", 3.0)
    found += _ratios(run, "storm, CPU per login", "b", ("tls", "scram"), "cpu", 1.3)
    found.append(_iam_logins(run))
    found += _values(run, "storm, clients that failed", "b", ("killed",), "failures", 0.0, "")
    found += _ratios(run, "storm, last first row", "b", ("killed",), "last", 2.0)
    found += _ratios(run, "bulk, CPU per GB", "d", (), "cpu", 1.1)
    found += _values(run, "memory per idle client", "c", ("plain",), "memory", 8.0, " KB")
    found += _values(run, "memory per idle client", "c", ("tls",), "memory", 40.0, " KB")
    found += _ratios(run, "throughput", "a", ("2", "processes"), "throughput", 0.95, at_least=True)
    found += _ratios(run, "interpreted, CPU per query", "a", ("plain",), "cpu", 2.5, endpoint=INTERPRETED)
    return found


def words_of(case: str) -> set[str]:
    """The words of a case's name, in lower case."""
    return set(case.lower().replace(",", " ").split())


def _cases(run: Run, scenario: str, words: tuple[str, ...]) -> Iterator[str]:
    return (case for case in run.cases(scenario) if set(words) <= words_of(case))


def _lines(
    run: Run,
    what: str,
    scenario: str,
    words: tuple[str, ...],
    target: str,
    judge: Callable[[str], tuple[str, bool] | None],
) -> Iterator[Verdict]:
    told = False
    for case in _cases(run, scenario, words):
        if (judged := judge(case)) is not None:
            told = True
            yield Verdict(f"{what}, {case}", target, *judged)
    if not told:
        yield Verdict(f"{what}, {' '.join(words)}" if words else what, target, "not measured", None)


def _ratios(
    run: Run,
    what: str,
    scenario: str,
    words: tuple[str, ...],
    metric: str,
    limit: float,
    *,
    at_least: bool = False,
    endpoint: str = COMPILED,
    to: str = REFERENCE,
) -> Iterator[Verdict]:
    def judge(case: str) -> tuple[str, bool] | None:
        ratio = run.ratio(scenario, case, endpoint, metric, to)
        if ratio is None:
            return None
        return _shown(ratio), ratio.median >= limit if at_least else ratio.median <= limit

    target = f"{'≥' if at_least else '≤'} {limit:g} of {run.title(to)}'s"
    return _lines(run, what, scenario, words, target, judge)


def _values(
    run: Run, what: str, scenario: str, words: tuple[str, ...], metric: str, limit: float, unit: str
) -> Iterator[Verdict]:
    def judge(case: str) -> tuple[str, bool] | None:
        value = run.spread(scenario, case, COMPILED, metric)
        if value is None:
            return None
        # Of what must not happen at all, the worst round counts.
        seen = max(run.rounds(scenario, case, COMPILED, metric).values()) if limit == 0 else value.median
        return f"{seen:.{0 if limit == 0 else 1}f}{unit}", seen <= limit

    return _lines(run, what, scenario, words, f"≤ {limit:g}{unit}" if limit else "none", judge)


def _other_poolers(run: Run) -> Iterator[Verdict]:
    measured = [key for key in _OTHERS if key in run.endpoint_keys("a")]
    if not measured:
        yield Verdict("CPU per query, plain", "below every other pooler", "no other pooler was present", None)
    for key in measured:
        yield from _ratios(run, "CPU per query", "a", ("plain",), "cpu", 1.0, to=key)


def _iam_logins(run: Run) -> Verdict:
    """IAM is compared with what PgBouncer, which has none, needs for a login by SCRAM inside TLS."""
    what, target, limit = "storm, CPU per login, IAM over TLS", "≤ 1.3 of PgBouncer's for TLS", 1.3
    for ours in _cases(run, "b", ("tls", "iam")):
        for theirs in _cases(run, "b", ("tls", "scram")):
            ratios = paired_ratios(run.rounds("b", ours, COMPILED, "cpu"), run.rounds("b", theirs, REFERENCE, "cpu"))
            if ratios:
                ratio = spread(ratios)
                return Verdict(what, target, _shown(ratio), ratio.median <= limit)
    return Verdict(what, target, "not measured", None)


def _added_latency(run: Run) -> Iterator[Verdict]:
    def judge(case: str) -> tuple[str, bool] | None:
        direct, theirs, ours = (run.rounds("a", case, key, "p99") for key in ("direct", REFERENCE, COMPILED))
        rounds = direct.keys() & theirs.keys() & ours.keys()
        if not rounds:
            return None
        added, reference = (statistics.median(each[n] - direct[n] for n in rounds) for each in (ours, theirs))
        return f"{added:+.2f} ms; PgBouncer {reference:+.2f} ms", added <= reference

    return _lines(run, "added p99 latency", "a", ("plain",), "no more than PgBouncer adds", judge)


def _shown(ratio: Spread) -> str:
    quartiles = f" ({ratio.low:.2f}…{ratio.high:.2f})" if ratio.count > 1 else ""
    return f"{ratio.median:.2f}{quartiles}"
