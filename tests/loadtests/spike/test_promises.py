"""Each promise of the demo is broken by exactly what it promises against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from tests.loadtests.spike.recordings import MAX_CONNECTIONS, PEAK, POOL_SIZE, ROUNDS, demo, invocations, recording

from tidegate_load.spike.outcomes import OK
from tidegate_load.spike.promises import DIRECT, LAYER, PROXY, demo_promises
from tidegate_load.spike.recording import Accounting, ConnectionSample, Recording


def broken(recordings: dict[str, Recording]) -> list[str]:
    return [promise.text for promise in demo_promises(recordings) if not promise.kept]


def accounting(run: Recording, **changes: int) -> None:
    assert run.accounting is not None
    run.accounting = dataclasses.replace(run.accounting, **changes)


def test_a_good_demo_keeps_every_promise() -> None:
    assert broken(demo()) == []


@pytest.mark.parametrize("name", [DIRECT, LAYER, PROXY])
def test_a_run_that_is_missing_is_a_broken_promise(name: str) -> None:
    recordings = demo()
    del recordings[name]
    assert broken(recordings) == [f"{name}: was run"]


@pytest.mark.parametrize("name", [DIRECT, LAYER, PROXY])
def test_too_few_invocations_in_flight(name: str) -> None:
    recordings = demo()
    run = recordings[name]
    run.parameters = run.parameters | {"peak": 11}
    run.service = {"peak_environments": 11}
    assert broken(recordings) == [f"{run.title}: 11 invocations at once are really reached"]


@pytest.mark.parametrize("name", [DIRECT, LAYER, PROXY])
def test_invocations_that_only_waited_in_line_for_few_environments(name: str) -> None:
    recordings = demo()
    run = recordings[name]
    run.service = {"peak_environments": 9}
    assert broken(recordings) == [f"{run.title}: 10 invocations at once are really reached"]


def test_direct_that_does_not_fail() -> None:
    recordings = demo()
    recordings[DIRECT] = recording(DIRECT, "direct", failing=4, connections=MAX_CONNECTIONS - 1)
    assert broken(recordings) == ["direct: at least 50% of the invocations at the peak fail"]


def test_direct_that_leaves_a_connection_unused() -> None:
    recordings = demo()
    recordings[DIRECT] = recording(DIRECT, "direct", failing=7, connections=MAX_CONNECTIONS - 2)
    assert broken(recordings) == ["direct: every connection of the database is used"]


def fail_one(run: Recording) -> None:
    run.invocations[5] = run.invocations[5]._replace(outcome="Task timed out")


def drop_one(run: Recording) -> None:
    run.parameters = run.parameters | {"min_invocations": len(run.invocations) + 1}


@pytest.mark.parametrize(
    ("harm", "promise"),
    [(fail_one, "no invocation fails"), (drop_one, f"at least {PEAK * ROUNDS + 1} invocations finish")],
)
def test_one_failure_or_one_invocation_too_few_with_layer_and_proxy(
    harm: Callable[[Recording], None], promise: str
) -> None:
    recordings = demo()
    harm(recordings[PROXY])
    assert broken(recordings) == [f"layer and proxy: {promise}"]


def test_too_few_invocations_are_blamed_on_the_machine_and_not_on_failures() -> None:
    recordings = demo()
    drop_one(recordings[PROXY])
    (promise,) = (promise for promise in demo_promises(recordings) if not promise.kept)
    assert promise.seen == "only 30 of 31 finished in 3 s: the machine is too busy"


def test_too_few_invocations_are_not_blamed_on_the_machine_where_some_failed() -> None:
    recordings = demo()
    drop_one(recordings[PROXY])
    fail_one(recordings[PROXY])
    few, _ = (promise for promise in demo_promises(recordings) if not promise.kept)
    assert few.seen == "only 30 of 31 finished in 3 s"


def test_direct_that_fails_for_another_reason() -> None:
    recordings = demo()
    run = recordings[DIRECT]
    run.invocations = invocations(failing=7, kind="password authentication failed")
    assert broken(recordings) == ["direct: most failures are 'too many clients already'"]


@pytest.mark.parametrize("name", [DIRECT, LAYER])
def test_a_run_that_stored_nothing_has_lost_nothing_and_proves_nothing(name: str) -> None:
    recordings = demo()
    accounting(recordings[name], stored=0, said=0)
    assert broken(recordings) == [f"{recordings[name].title}: rows are committed, and none is lost"]


def test_one_sample_with_one_server_connection_too_many() -> None:
    recordings = demo()
    many = {"counter/a": POOL_SIZE, "counter/b": 1}
    recordings[PROXY].connections[3] = ConnectionSample(0.0, POOL_SIZE + 1, many)
    assert broken(recordings) == [f"layer and proxy: at most {POOL_SIZE} server connections"]


def test_server_connections_that_were_never_seen_prove_nothing() -> None:
    recordings = demo()
    recordings[PROXY].connections = []
    assert broken(recordings) == [f"layer and proxy: at most {POOL_SIZE} server connections"]


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": 1, "extra": 1},
        {"stored": 29, "lost": 1},
        {"stored": 31, "extra": 1},
        {"stored": 29, "said": 29},
    ],
)
def test_a_row_that_is_lost_or_doubled_with_layer_and_proxy(changes: dict[str, int]) -> None:
    recordings = demo()
    accounting(recordings[PROXY], **changes)
    assert broken(recordings) == ["layer and proxy: every committed row is accounted for"]


@pytest.mark.parametrize("name", [DIRECT, LAYER])
def test_a_lost_row_without_the_proxy(name: str) -> None:
    recordings = demo()
    accounting(recordings[name], lost=1)
    assert broken(recordings) == [f"{recordings[name].title}: rows are committed, and none is lost"]


@pytest.mark.parametrize("name", [DIRECT, LAYER])
def test_an_invocation_may_fail_after_its_commit_but_no_more_rows_than_failures(name: str) -> None:
    recordings = demo()
    accounting(recordings[name], extra=recordings[name].failed)
    assert broken(recordings) == []
    accounting(recordings[name], extra=recordings[name].failed + 1)
    assert broken(recordings) == [f"{recordings[name].title}: rows are committed, and none is lost"]


def test_rows_that_were_not_counted_are_not_accounted_for() -> None:
    recordings = demo()
    for run in recordings.values():
        run.accounting = None
    assert len(broken(recordings)) == 3


def test_one_lost_and_one_doubled_row_do_not_cancel_out() -> None:
    made = invocations(failing=0)
    stored = {each.id: 3 for each in made} | {1: 2, 2: 4}
    assert Accounting.compare(stored, made) == Accounting(stored=30, said=30, lost=1, extra=1)


def test_a_row_that_nobody_raised_is_extra() -> None:
    made = [each for each in invocations(failing=0) if each.outcome == OK]
    stored = {each.id: 3 for each in made} | {999: 1}
    assert Accounting.compare(stored, made) == Accounting(stored=31, said=30, lost=0, extra=1)
