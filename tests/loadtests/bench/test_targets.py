"""Targets are judged by what a run measured, and not at all where it did not."""

from __future__ import annotations

from tests.loadtests.bench.runs import SIMPLE, made_run

from tidegate_load.bench.measurements import EndpointInfo, Measurement
from tidegate_load.bench.targets import Verdict, verdicts


def _by_name(found: list[Verdict]) -> dict[str, Verdict]:
    return {each.what: each for each in found}


def test_met_and_missed_targets_are_told_apart() -> None:
    found = _by_name(verdicts(made_run()))
    assert found[f"CPU per query, {SIMPLE}"].met is True
    assert found[f"CPU per query, {SIMPLE}"].seen == "1.05 (1.05…1.05)"
    assert found[f"throughput, {SIMPLE}"].met is False
    assert found[f"interpreted, CPU per query, {SIMPLE}"].met is False


def test_added_latency_is_compared_with_what_pgbouncer_adds() -> None:
    verdict = _by_name(verdicts(made_run()))[f"added p99 latency, {SIMPLE}"]
    assert verdict.met is True
    assert verdict.seen == "+0.40 ms; PgBouncer +0.50 ms"


def test_one_client_that_failed_in_any_round_is_too_many() -> None:
    run = made_run()
    case = "servers killed, 500 new clients"
    for number in (2, 3):
        run.measurements.append(Measurement("b", case, "tidegate-compiled", number, {"failures": 0.0}))
    assert _by_name(verdicts(run))[f"storm, clients that failed, {case}"].met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = _by_name(verdicts(made_run()))
    assert found["CPU per query, tls"].met is None
    assert found["bulk, CPU per GB"] == Verdict("bulk, CPU per GB", "≤ 1.1 of PgBouncer's", "not measured", None)
    assert found["storm, CPU per login, IAM over TLS"].met is None


def test_iam_is_compared_with_pgbouncers_tls() -> None:
    run = made_run()
    for number, slowness in ((1, 1.0), (2, 2.0)):
        for case, endpoint, cpu in (("SCRAM", "pgbouncer", 0.65), ("IAM", "tidegate-compiled", 0.78)):
            values = {"cpu": cpu * slowness}
            run.measurements.append(Measurement("b", f"TLS, {case}, 500 clients", endpoint, number, values))
    verdict = _by_name(verdicts(run))["storm, CPU per login, IAM over TLS"]
    assert verdict.met is True
    assert verdict.seen == "1.20 (1.20…1.20)"


def test_other_poolers_count_when_they_were_there() -> None:
    run = made_run()
    run.endpoints[-1] = EndpointInfo("odyssey", "Odyssey", "1.4")
    run.measurements.append(Measurement("a", SIMPLE, "odyssey", 1, {"cpu": 12.0}))
    lines = [each for each in verdicts(run) if each.target == "≤ 1 of Odyssey's"]
    assert [(line.what, line.met) for line in lines] == [(f"CPU per query, {SIMPLE}", False)]
