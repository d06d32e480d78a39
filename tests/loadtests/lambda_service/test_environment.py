"""What an execution environment looks like from inside, forked and fresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.loadtests.lambda_service.helpers import FUNCTIONS, Service, eventually

HANDLERS = {"describe": "app.describe", "echo": "app.echo", "raises": "raises_in_init.handler", "hang": "app.hang"}


@pytest.fixture(scope="module", params=[False, True], ids=["forked", "fresh"])
def fresh(request: pytest.FixtureRequest) -> bool:
    """Whether each environment is an interpreter of its own."""
    return bool(request.param)


@pytest.fixture(scope="module")
def service(fresh: bool) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("PGPASSWORD", "secret")
        shell.setenv("TIDEGATE_TARGET", "elsewhere")
        shell.setenv("AWS_LAMBDA_FUNCTION_NAME", "another")
        with Service(HANDLERS, env={"TABLE": "a=b", "LANG": "C"}, memory=256, fresh=fresh, timeout=60) as running:
            yield running


@pytest.fixture
def inside(service: Service) -> dict[str, Any]:
    answer = service.invoke("describe")
    assert answer.error is None
    seen: dict[str, Any] = answer.payload
    assert seen["request_id"] == answer.headers["x-amzn-requestid"]
    return seen


def test_its_variables_are_lambdas_and_the_functions_own_and_no_others(inside: dict[str, Any]) -> None:
    variables = inside["variables"]
    assert set(variables) == {
        *("_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "AWS_REGION"),
        *("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION"),
        *("AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"),
        *("AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LANG", "PATH", "TABLE", "TZ"),
    } | (set(variables) & {"LC_CTYPE"})  # Python itself sets this one where the locale is C
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == "describe"
    assert variables["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert variables["LAMBDA_TASK_ROOT"] == str(FUNCTIONS)
    assert (variables["TABLE"], variables["LANG"]) == ("a=b", "C")


def test_it_starts_in_the_functions_directory_and_imports_from_there_first(inside: dict[str, Any]) -> None:
    assert inside["directory"] == str(FUNCTIONS)
    assert inside["path"] in (str(FUNCTIONS), "")


def test_the_context_is_filled(inside: dict[str, Any]) -> None:
    assert inside["arn"] == "arn:aws:lambda:us-east-1:123456789012:function:describe"
    assert inside["memory"] == "256"
    assert 0 < inside["remaining"] <= 60_000


def test_nothing_of_the_service_is_in_it(inside: dict[str, Any]) -> None:
    assert [name for name in inside["modules"] if name.startswith(("tidegate", "aiohttp", "uvloop"))] == []
    assert inside["open_files"] == 1024
    logs = [name for name in inside["files"] if name.endswith(".log")]
    assert len(logs) == 2  # its standard output and standard error
    zygote = {str(link.readlink()) for link in Path(f"/proc/{inside['parent']}/fd").iterdir()}
    assert set(inside["files"]) & zygote == {"/dev/null"}
    assert all(name.startswith("socket:") for name in set(inside["files"]) - {*logs, "/dev/null"})


def test_libpq_is_there(inside: dict[str, Any]) -> None:
    assert inside["libpq"] >= 120000


def test_environments_share_nothing(service: Service, tmp_path: Path) -> None:
    begun = [service.begin("echo", wait_for=str(tmp_path / "go")) for _ in range(3)]
    eventually(lambda: service.stats("echo")["busy"] == 3, "three are running")
    (tmp_path / "go").touch()
    answers = [invocation.result() for invocation in begun]
    assert [answer.payload["invocations"] for answer in answers] == [1, 1, 1]
    assert len({answer.payload["pid"] for answer in answers}) == 3
    assert len({answer.payload["api"] for answer in answers}) == 3


def test_failures_are_told_alike(service: Service, fresh: bool, tmp_path: Path) -> None:
    assert service.invoke("raises").payload["errorMessage"] == "the tide is out"
    with Service(HANDLERS, fresh=fresh, timeout=2) as impatient:
        hung = impatient.invoke("hang", touch=str(tmp_path / "pid"), goodbye=str(tmp_path / "goodbye"))
    assert hung.payload["errorType"] == "Sandbox.Timedout"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_snapstart_hooks_run_between_init_and_the_first_invocation() -> None:
    with Service({"f": "snapshot.handler"}, env={"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}) as service:
        assert service.invoke("f").payload == ["before", "after"]


def test_five_hundred_idle_environments_fit_in_four_gigabytes(tmp_path: Path) -> None:
    sample = 24
    with Service({"f": "app.echo"}, timeout=60) as service:
        begun = [service.begin("f", wait_for=str(tmp_path / "go")) for _ in range(sample)]
        eventually(lambda: service.stats("f")["busy"] == sample, "all are running")
        (tmp_path / "go").touch()
        pids = {invocation.result().payload["pid"] for invocation in begun}
        assert len(pids) == sample
        used = sum(psutil.Process(pid).memory_full_info().uss for pid in pids)
    assert used / sample * 500 < 4 * 2**30
