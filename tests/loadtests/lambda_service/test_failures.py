"""What invokers see when a function fails, and what becomes of its environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import psutil
import pytest
from tests.loadtests.lambda_service.helpers import Service, eventually, gone

HANDLERS = {
    "fail": "app.fail",
    "leave": "app.leave",
    "hang": "app.hang",
    "echo": "app.echo",
    "child": "app.child",
    "large": "app.large",
    "out-of-turn": "app.out_of_turn",
    "raises-in-init": "raises_in_init.handler",
    "leaves-in-init": "leaves_in_init.handler",
    "hangs-in-init": "hangs_in_init.handler",
    "missing-module": "nowhere.handler",
    "missing-handler": "app.nothing",
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(HANDLERS, timeout=60, init_timeout=60) as running:
        yield running


@pytest.fixture(scope="module")
def impatient() -> Iterator[Service]:
    """One that waits for nobody; on a busy machine, not for those either who would have answered."""
    with Service(HANDLERS, timeout=2.25, init_timeout=3) as running:
        yield running


def test_an_exception_in_the_handler_is_the_answer_and_the_environment_stays(service: Service) -> None:
    first, second = service.invoke("fail"), service.invoke("fail")
    assert (first.status, first.error) == (200, "Unhandled")
    assert first.payload["errorType"] == "KeyError"
    assert first.payload["errorMessage"] == "'no such tide'"
    assert any("no such tide" in line for line in first.payload["stackTrace"])
    assert not second.cold_start
    assert service.stats("fail")["errors"] == 2


@pytest.mark.parametrize(
    ("status", "reason"),
    [(3, "Runtime exited with error: exit status 3"), (0, "Runtime exited without providing a reason")],
)
def test_a_process_that_ends_in_the_handler_is_an_exit_error(service: Service, status: int, reason: str) -> None:
    answer = service.invoke("leave", status=status)
    assert answer.error == "Unhandled"
    assert answer.payload == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {answer.headers['x-amzn-requestid']} Error: {reason}",
    }
    assert answer.cold_start
    assert service.stats("leave")["environments"] == 0


def test_a_time_out_kills_the_environment_without_a_goodbye(impatient: Service, tmp_path: Path) -> None:
    answer = impatient.invoke("hang", touch=str(tmp_path / "pid"), goodbye=str(tmp_path / "goodbye"))
    assert answer.error == "Unhandled"
    assert answer.payload == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {answer.headers['x-amzn-requestid']} Error: Task timed out after 2.25 seconds",
    }
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "goodbye").exists()
    stats = impatient.stats("hang")
    assert (stats["timeouts"], stats["errors"], stats["environments"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("function", "error_type", "message"),
    [
        ("raises-in-init", "RuntimeError", "the tide is out"),
        ("missing-module", "Runtime.ImportModuleError", "Unable to import module 'nowhere'"),
        ("missing-handler", "Runtime.HandlerNotFound", "Handler 'nothing' missing on module 'app'"),
        ("leaves-in-init", "Runtime.ExitError", "Runtime exited with error: exit status 7"),
    ],
)
def test_a_failed_init_is_the_answer_and_the_environment_is_gone(
    service: Service, function: str, error_type: str, message: str
) -> None:
    failed_init(service, function, error_type, message)


def test_an_init_that_never_ends_is_a_failed_one(impatient: Service) -> None:
    failed_init(impatient, "hangs-in-init", "Sandbox.Timedout", "INIT: Task timed out after 3.00 seconds")


def failed_init(service: Service, function: str, error_type: str, message: str) -> None:
    answer = service.invoke(function)
    assert (answer.status, answer.error) == (200, "Unhandled")
    assert answer.payload["errorType"] == error_type
    assert message in answer.payload["errorMessage"]
    assert answer.cold_start
    stats = service.stats(function)
    assert (stats["init_errors"], stats["errors"], stats["cold_starts"], stats["environments"]) == (1, 1, 1, 0)


def test_an_environment_that_died_while_idle_is_replaced(service: Service) -> None:
    pid = service.invoke("echo").payload["pid"]
    psutil.Process(pid).kill()
    eventually(lambda: service.stats("echo")["environments"] == 0, "the service knows")
    answer = service.invoke("echo")
    assert answer.error is None
    assert answer.cold_start


def test_what_a_function_started_dies_with_its_environment(service: Service) -> None:
    child = psutil.Process(service.invoke("child").payload)
    assert not gone(child)
    environment = child.parent()
    assert environment is not None
    environment.kill()
    eventually(lambda: gone(child), "the child is gone")


def test_an_answer_may_have_just_so_many_bytes(service: Service) -> None:
    limit = 6 * 2**20 + 100
    assert len(service.invoke("large", size=limit).payload) == limit - 2
    answer = service.invoke("large", size=limit + 1)
    assert answer.error == "Unhandled"
    assert answer.payload["errorType"] == "Function.ResponseSizeTooLarge"
    assert service.invoke("large", size=10).cold_start


def test_calls_out_of_turn_are_refused_and_do_no_harm(service: Service) -> None:
    answer = service.invoke("out-of-turn")
    assert answer.payload == {"next": 403, "response": 400, "init": 403, "unknown": 404}
    assert not service.invoke("out-of-turn").cold_start


def test_what_is_the_services_own_fault_is_a_service_exception(tmp_path: Path) -> None:
    with Service({"f": "app.echo"}, log_dir=tmp_path) as running:
        rmtree(tmp_path / "f")
        with pytest.raises(running.boto.exceptions.ServiceException, match="No such file or directory"):
            running.invoke("f")
        assert running.stats("f")["environments"] == 0
        (tmp_path / "f").mkdir()
        assert running.invoke("f").error is None
