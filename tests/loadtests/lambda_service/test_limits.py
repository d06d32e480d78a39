"""The concurrency limit and the idle time-out."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError
from tests.loadtests.lambda_service.helpers import Service, eventually, gone


def test_invocations_over_the_concurrency_limit_are_throttled(tmp_path: Path) -> None:
    with Service({"f": "app.echo"}, timeout=60, concurrency=2) as service:
        begun = [service.begin("f", wait_for=str(tmp_path / "go")) for _ in range(2)]
        eventually(lambda: service.stats("f")["busy"] == 2, "two are running")
        with pytest.raises(service.boto.exceptions.TooManyRequestsException) as caught:
            service.invoke("f")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429
        assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        assert service.stats("f")["throttles"] == 1
        (tmp_path / "go").touch()
        assert all(invocation.result().error is None for invocation in begun)
        assert service.invoke("f").error is None


def test_events_over_the_concurrency_limit_wait_for_their_turn(tmp_path: Path) -> None:
    with Service({"f": "app.echo"}, timeout=60, concurrency=1) as service:
        event = {"wait_for": str(tmp_path / "go"), "touch": str(tmp_path / "done")}
        for _ in range(5):
            service.boto.invoke(FunctionName="f", InvocationType="Event", Payload=json.dumps(event))
        with pytest.raises(ClientError, match="Rate Exceeded"):
            service.invoke("f")
        (tmp_path / "go").touch()
        eventually(lambda: service.stats("f")["invocations"] == 5, "all five have run")
        assert len((tmp_path / "done").read_text().splitlines()) == 5
        assert service.stats("f")["peak_environments"] == 1


def test_an_idle_environment_is_killed_after_its_time_without_a_goodbye(tmp_path: Path) -> None:
    goodbye = tmp_path / "goodbye"
    with Service({"f": "goodbye.handler"}, idle_timeout=0.2, env={"GOODBYE": str(goodbye)}) as service:
        environment = psutil.Process(service.invoke("f").payload)
        eventually(lambda: gone(environment), "it is gone")
        eventually(lambda: service.stats("f")["environments"] == 0, "the service knows")
        assert not goodbye.exists()
        assert service.invoke("f").cold_start
