"""Runs scenarios: endpoints take turns in short rounds, so that a busy machine slows all of them alike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from tidegate_load.bench.endpoints import Endpoint, Running
from tidegate_load.bench.measurements import Failure, Measurement, Run
from tidegate_load.bench.scenarios import Case, Scenario, Sizes
from tidegate_load.bench.stage import BenchError, Stage

Plan = Sequence[tuple[Scenario, Sequence[Case]]]
"""The scenarios of a run, each with those of its cases that were chosen."""

Progress = Callable[[str, float], None]
"""Told what is about to be measured, and the seconds that the step before was expected to take."""


def estimate(plan: Plan, endpoints: Sequence[Endpoint], sizes: Sizes, rounds: int) -> float:
    """About how many seconds a plan takes."""
    starting, warming = 1.0, 0.3
    total = 10.0
    for scenario, cases in plan:
        for case in cases:
            once = scenario.estimate(sizes, case)
            each = (once + starting) * rounds if case.fresh else once * rounds + starting + warming
            total += each * len(scenario.endpoints(endpoints, case))
    return total


class Runner:
    """Measures a plan and adds to a Run as it goes, so that what was measured is there whatever happens.

    Parameters: `endpoints`, those that are present; `progress`, called before each measurement.
    """

    def __init__(
        self, stage: Stage, run: Run, endpoints: Sequence[Endpoint], sizes: Sizes, rounds: int, progress: Progress
    ) -> None:
        self._stage = stage
        self._run = run
        self._endpoints = endpoints
        self._sizes = sizes
        self._rounds = rounds
        self._progress = progress

    def run(self, plan: Plan) -> None:
        """Measure it all. Raises: InterruptedRunError."""
        for scenario, cases in plan:
            for case in cases:
                self._run_case(scenario, case)

    def _run_case(self, scenario: Scenario, case: Case) -> None:
        endpoints = [each for each in scenario.endpoints(self._endpoints, case) if self._fits(scenario, case, each)]
        with contextlib.ExitStack() as stack:
            running: dict[str, Running] = {}
            if not case.fresh:
                for endpoint in list(endpoints):
                    try:
                        self._step(f"{scenario.name}: {case.name}: starting {endpoint.title}", 0)
                        started = stack.enter_context(self._start(scenario, case, endpoint))
                        scenario.warm_up(self._stage, self._sizes, case, started)
                        running[endpoint.key] = started
                    except BenchError as error:
                        self._fail(scenario, case, endpoint, 0, error)
                        endpoints.remove(endpoint)
            for number in range(1, self._rounds + 1):
                # Nobody is always the first, and nobody always follows the same one.
                turn = number % max(1, len(endpoints))
                for endpoint in endpoints[turn:] + endpoints[:turn]:
                    self._step(f"{scenario.name}: {case.name}: round {number}, {endpoint.title}", 0)
                    try:
                        if case.fresh:
                            with self._start(scenario, case, endpoint) as started:
                                values = scenario.measure(self._stage, self._sizes, case, started)
                        else:
                            values = scenario.measure(self._stage, self._sizes, case, running[endpoint.key])
                    except BenchError as error:
                        self._fail(scenario, case, endpoint, number, error)
                        endpoints = [each for each in endpoints if each is not endpoint]
                        continue
                    finally:
                        self._progress("", scenario.estimate(self._sizes, case))
                    self._run.measurements.append(Measurement(scenario.key, case.name, endpoint.key, number, values))

    def _start(self, scenario: Scenario, case: Case, endpoint: Endpoint) -> Running:
        started = endpoint.start(self._stage, case.setup)
        if started.remark:
            self._remark(f"{scenario.name}: {endpoint.title} {started.remark}")
        return started

    def _fits(self, scenario: Scenario, case: Case, endpoint: Endpoint) -> bool:
        why = endpoint.unfit(case.setup)
        if why:
            self._remark(f"{scenario.name}: {case.name}: without {endpoint.title}: {why}")
        return not why

    def _remark(self, remark: str) -> None:
        if remark not in self._run.remarks:
            self._run.remarks.append(remark)

    def _step(self, what: str, seconds: float) -> None:
        self._stage.interruption.check()
        self._progress(what, seconds)

    def _fail(self, scenario: Scenario, case: Case, endpoint: Endpoint, number: int, error: BenchError) -> None:
        self._run.failures.append(Failure(scenario.key, case.name, endpoint.key, number, str(error)))
