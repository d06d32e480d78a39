"""Every scenario in small: the real proxy, the real PostgreSQL, and a plausible value for each metric."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support.proxy import eventually

from tidegate_load.bench.endpoints import Endpoint, Running, Setup, all_endpoints
from tidegate_load.bench.endpoints.base import PoolerProcess
from tidegate_load.bench.measurements import Run
from tidegate_load.bench.runner import Runner, estimate
from tidegate_load.bench.scenarios import Case, Scenario, Sizes, all_scenarios
from tidegate_load.bench.stage import BenchError, Stage
from tidegate_load.bench.targets import words_of

SIZES = Sizes(
    seconds=0.2, clients=(2,), storm=8, idle=20, out=2, into=1, writers=6, transactions=3, pool_size=3, scale=1
)
ENDPOINTS = {endpoint.key: endpoint for endpoint in all_endpoints()}
SCENARIOS = {scenario.name: scenario for scenario in all_scenarios()}
PRESENT = [endpoint for endpoint in ENDPOINTS.values() if endpoint.version() is not None]


def measured(
    stage: Stage, scenario: Scenario, words: str, endpoints: Sequence[str] = ("direct", "tidegate-interpreted")
) -> Run:
    """One round of the cases with these words."""
    cases = [case for case in scenario.cases(SIZES) if set(words.lower().split()) <= words_of(case.name)]
    assert cases
    run = Run("", "")
    Runner(stage, run, [ENDPOINTS[key] for key in endpoints], SIZES, 1, lambda what, seconds: None).run(
        [(scenario, cases)]
    )
    assert run.failures == []
    assert set(run.cases(scenario.key)) == {case.name for case in cases}
    return run


def values(run: Run, endpoint: str = "tidegate-interpreted") -> dict[str, float]:
    """The values of the only case."""
    (found,) = [each.values for each in run.measurements if each.endpoint == endpoint]
    return found


@pytest.mark.parametrize("words", ["plain simple", "tls prepared"])
def test_short_queries(stage: Stage, words: str) -> None:
    run = measured(stage, SCENARIOS["queries"], words)
    seen = values(run)
    assert 1.0 < seen["cpu"] < 10_000.0
    assert seen["throughput"] > 0
    assert 0 < seen["p50"] <= seen["p99"]
    # PostgreSQL's wheel has no TLS.
    assert ("direct" in {each.endpoint for each in run.measurements}) == ("tls" not in words)


@pytest.mark.parametrize("words", ["plain scram", "tls scram", "tls iam", "killed new"])
def test_storms(stage: Stage, words: str) -> None:
    run = measured(stage, SCENARIOS["storm"], words)
    seen = values(run)
    assert seen["failures"] == 0
    assert 0 < seen["p99"] <= seen["last"]
    assert seen["cpu"] > 0
    assert 1 <= seen["servers"] <= SIZES.pool_size
    if words == "plain scram":
        assert values(run, "direct")["servers"] == SIZES.storm


def test_storm_of_connected_clients_whose_servers_were_killed_is_counted_in_full(stage: Stage) -> None:
    seen = values(measured(stage, SCENARIOS["storm"], "killed connected"))
    assert 0 <= seen["failures"] <= SIZES.storm
    assert 0 < seen["p99"] <= seen["last"]


def test_idle_clients(stage: Stage) -> None:
    seen = values(measured(stage, SCENARIOS["idle"], "plain"))
    assert set(seen) == {metric.key for metric in SCENARIOS["idle"].metrics}
    assert seen["p50"] > 0


def test_bulk(stage: Stage) -> None:
    run = measured(stage, SCENARIOS["bulk"], "mb")
    assert len(run.measurements) == 6
    for each in run.measurements:
        assert each.values["rate"] > 0
        assert ("peak" in each.values) == (each.endpoint != "direct")


def test_writes(stage: Stage) -> None:
    seen = values(measured(stage, SCENARIOS["writes"], "clients"))
    assert seen["fairness"] >= 1.0
    assert seen["total"] > 0
    with stage.server.connect(dbname="bench") as conn:
        row = conn.execute("SELECT count(*) FROM pgbench_history").fetchone()
    assert row is not None
    assert row[0] > 0
    assert row[0] % (SIZES.writers * SIZES.transactions) == 0


@pytest.mark.parametrize("words", ["set carried", "pinned"])
def test_session_state(stage: Stage, words: str) -> None:
    assert values(measured(stage, SCENARIOS["sessions"], words, ["tidegate-interpreted"]))["cpu"] > 1.0


def test_the_layers_cold_start_contains_the_interpreters(stage: Stage) -> None:
    def contains() -> bool:
        run = measured(stage, SCENARIOS["layer"], "cold")
        return values(run, "layer")["cold"] > values(run, "bare")["cold"] > 0

    # On a busy machine, one start may be much slower than another.
    eventually(contains, what="a cold start that contains the interpreter's")


def test_the_layer_sends_no_packet_more_than_psycopg_alone(stage: Stage) -> None:
    run = measured(stage, SCENARIOS["layer"], "warm")
    assert values(run, "layer")["packets"] == values(run, "psycopg")["packets"] == 3.0  # BEGIN, SELECT, COMMIT


@pytest.mark.parametrize(
    "setup", [Setup(5), Setup(5, tls=True), Setup(5, prepared=True), Setup(5, sessions=True)], ids=str
)
def test_every_endpoint_that_is_found_here_serves_with_every_setup(stage: Stage, setup: Setup) -> None:
    for endpoint in PRESENT:
        # pgagroal 2.1 now and then ends by itself on a busy machine, which no test here is about.
        if endpoint.key != "pgagroal" and (endpoint.pooler or not setup.tls):
            # Starting waits for a login and a query; TLS is not optional then.
            with endpoint.start(stage, setup) as running:
                assert running.parameters["sslmode"] == ("require" if setup.tls else "disable")
                if endpoint.pooler:
                    assert running.usage().cpu > 0
                    assert running.peak_memory() > 1_000_000


class _EndsAtOnce(Endpoint):
    key = "broken"
    title = "Broken pooler"

    def version(self) -> str:
        return "1"

    def absence(self) -> str:
        return ""

    def start(self, stage: Stage, setup: Setup) -> Running:
        process = PoolerProcess(self.title, ["/bin/sh", "-c", "echo cannot bind >&2"], stage.new_folder("b") / "log")
        try:
            process.wait_for_login(stage, stage.parameters(port=1))
        finally:
            process.stop()
        raise AssertionError("it cannot have started")


def test_an_endpoint_that_does_not_start_is_told_and_the_others_are_measured(stage: Stage) -> None:
    run = Run("", "")
    scenario = SCENARIOS["storm"]
    cases = scenario.cases(SIZES)[:1]
    Runner(stage, run, [_EndsAtOnce(), ENDPOINTS["direct"]], SIZES, 2, lambda what, seconds: None).run(
        [(scenario, cases)]
    )
    assert [(each.endpoint, each.error) for each in run.failures] == [
        ("broken", "Broken pooler did not start: cannot bind")
    ]
    assert [(each.endpoint, each.round) for each in run.measurements] == [("direct", 1), ("direct", 2)]


class _Recorder(Scenario):
    key = name = title = "x"
    metrics = ()

    def cases(self, sizes: Sizes) -> list[Case]:
        return [Case("only", Setup(1))]

    def estimate(self, sizes: Sizes, case: Case) -> float:
        return 1.0

    def measure(self, stage: Stage, sizes: Sizes, case: Case, running: Running) -> dict[str, float]:
        return {}


class _Named(Endpoint):
    title = "named"

    def __init__(self, key: str) -> None:
        self.key = key

    def version(self) -> str:
        return "1"

    def absence(self) -> str:
        return ""

    def start(self, stage: Stage, setup: Setup) -> Running:
        return Running(stage.parameters())


def test_endpoints_take_turns_and_nobody_is_always_first(stage: Stage) -> None:
    run = Run("", "")
    scenario = _Recorder()
    plan = [(scenario, scenario.cases(SIZES))]
    endpoints = [_Named(key) for key in "abc"]
    Runner(stage, run, endpoints, SIZES, 3, lambda what, seconds: None).run(plan)
    orders = ["".join(each.endpoint for each in run.measurements if each.round == number) for number in (1, 2, 3)]
    assert sorted(order[0] for order in orders) == ["a", "b", "c"]
    assert estimate(plan, endpoints, SIZES, 3) > 9


def test_a_pooler_that_ended_in_the_middle_is_named(stage: Stage) -> None:
    with ENDPOINTS["tidegate-interpreted"].start(stage, Setup(1)) as running:
        running.close()
        with pytest.raises(BenchError, match="Tidegate interpreted ended"):
            running.usage()
