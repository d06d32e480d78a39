"""Environments of other kinds: provisioned, on managed instances, restored from a snapshot, with an extension."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.loadtests.lambda_service.helpers import Service, eventually

SNAPSTART = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}


def test_provisioned_environments_are_there_first_and_others_start_on_demand() -> None:
    with Service({"where": "where.handler"}, provisioned=2) as service:
        assert service.stats("where")["idle"] == 2
        answers = [call.result() for call in [service.begin("where", sleep=1.5) for _ in range(3)]]
        assert sorted(answer.payload["type"] for answer in answers) == [
            "on-demand",
            "provisioned-concurrency",
            "provisioned-concurrency",
        ]
        assert sorted(answer.cold_start for answer in answers) == [False, False, True]


def test_the_workers_of_a_managed_instance_share_its_environment() -> None:
    with Service({"where": "where.handler"}, provisioned=1, workers=4) as service:
        answers = [call.result().payload for call in [service.begin("where", sleep=1.5) for _ in range(4)]]
        assert len({answer["pid"] for answer in answers}) == 4
        assert len({answer["parent"] for answer in answers}) == 1
        assert {answer["type"] for answer in answers} == {"lambda-managed-instances"}
        assert service.stats("where")["peak_environments"] == 1


def test_more_invocations_than_workers_start_another_environment() -> None:
    with Service({"where": "where.handler"}, provisioned=1, workers=2) as service:
        answers = [call.result().payload for call in [service.begin("where", sleep=1.5) for _ in range(4)]]
        assert len({answer["pid"] for answer in answers}) == 4
        assert len({answer["parent"] for answer in answers}) >= 2


def test_a_worker_that_overruns_ends_the_environment_and_answers_for_all_that_ran_in_it() -> None:
    with Service({"where": "where.handler"}, provisioned=1, workers=2, timeout=2) as service:
        calls = [service.begin("where", sleep=30) for _ in range(2)]
        assert {call.result().payload["errorType"] for call in calls} <= {"Sandbox.Timedout", "Runtime.ExitError"}
        assert service.invoke("where").error is None


def test_the_snapshot_waits_for_the_first_event() -> None:
    with Service({"snapshot": "snapshot.handler"}, env=SNAPSTART, provisioned=1) as service:
        assert service.stats("snapshot")["idle"] == 1
        assert service.invoke("snapshot").payload == ["before", "after"]
        assert service.invoke("snapshot").payload == ["before", "after"]


def test_a_hook_that_fails_after_the_restore_fails_the_invocation() -> None:
    with Service({"failing": "failing_restore.handler"}, env=SNAPSTART) as service:
        answer = service.invoke("failing")
        assert answer.error == "Unhandled"
        assert answer.payload["errorType"] == "ValueError"
        eventually(lambda: service.stats("failing")["environments"] == 0, "the environment has ended")


@pytest.mark.parametrize("extension", [True, False])
def test_sigterm_comes_before_the_end_only_where_an_extension_is_present(extension: bool, tmp_path: Path) -> None:
    settings = {"idle_timeout": 0.1, "log_dir": tmp_path, "extension": extension}
    with Service({"where": "where.handler"}, **settings) as service:
        service.invoke("where")
        eventually(lambda: service.stats("where")["environments"] == 0, "the environment has ended")
    [log] = (tmp_path / "where").iterdir()
    assert ("farewell" in log.read_text()) == extension


def test_the_end_of_the_service_is_announced_too(tmp_path: Path) -> None:
    with Service({"where": "where.handler"}, extension=True, log_dir=tmp_path) as service:
        service.invoke("where")
    [log] = (tmp_path / "where").iterdir()
    assert "farewell" in log.read_text()
