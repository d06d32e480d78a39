"""How the service starts, refuses to start, and ends; whatever happens, it leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.loadtests.lambda_service.helpers import FUNCTIONS, Service, eventually, gone

from tidegate_load.lambda_service import (
    ConfigurationError,
    Function,
    LambdaService,
    LambdaServiceProcess,
    LambdaServiceStartError,
)

ECHO = f"f={FUNCTIONS}:app.echo"


def _busy(service: Service, tmp_path: Path) -> list[psutil.Process]:
    """Every process of a service with an idle environment, a busy one, and a child of a function."""
    service.invoke("echo")
    child = service.invoke("child").payload
    service.begin("hang", touch=str(tmp_path / "pid"), goodbye=str(tmp_path / "goodbye")).add_done_callback(
        lambda invocation: invocation.exception()
    )
    eventually((tmp_path / "pid").exists, "one environment is busy")
    processes = service.descendants()
    assert len(processes) == 5  # zygote, three environments, one child
    assert child in {process.pid for process in processes}
    return processes


@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_no_process_is_left(how: signal.Signals, fresh: bool, tmp_path: Path) -> None:
    handlers = {"echo": "app.echo", "hang": "app.hang", "child": "app.child"}
    with Service(handlers, timeout=600, fresh=fresh, log_dir=tmp_path / "logs") as service:
        processes = [psutil.Process(service.process.pid), *_busy(service, tmp_path)]
        os.kill(service.process.pid, how)
        for process in processes:
            eventually(lambda process=process: gone(process), f"{process} is gone")  # type: ignore[misc]
        status = service.process.close()
    assert status == (-signal.SIGKILL if how is signal.SIGKILL else 0)
    assert not (tmp_path / "goodbye").exists()


def test_without_its_zygote_the_service_ends_with_an_error(tmp_path: Path) -> None:
    handlers = {"echo": "app.echo", "hang": "app.hang", "child": "app.child"}
    with Service(handlers, timeout=600) as service:
        zygote, *others = _busy(service, tmp_path)
        zygote.kill()
        for process in others:
            eventually(lambda process=process: gone(process), f"{process} is gone")  # type: ignore[misc]
        server = psutil.Process(service.process.pid)
        eventually(lambda: gone(server), "the service has ended")
        assert service.process.close() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--function'"),
        (["--function", "f"], "--function 'f' is not of the form NAME=DIRECTORY:module.handler"),
        (["--function", f"a b={FUNCTIONS}:app.echo"], "function name 'a b': use 1 to 64 letters"),
        (["--function", f"f={FUNCTIONS}:app"], "the handler 'app' is not of the form module.function"),
        (["--function", "f=/nowhere:app.echo"], "there is no directory /nowhere"),
        (["--function", ECHO, "--function", ECHO], "function f is defined twice"),
        (["--function", ECHO, "--timeout", "0"], "timeout must be greater than 0"),
        (["--function", ECHO, "--timeout", "nan"], "timeout must be greater than 0"),
        (["--function", ECHO, "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["--function", ECHO, "--concurrency", "-1"], "concurrency must be greater than 0"),
        (["--function", ECHO, "--concurrency", "1000000000"], "lower --concurrency"),
        (["--function", ECHO, "--env", "=hidden"], "--env '' is not of the form KEY=VALUE"),
        (["--function", ECHO, "--env-json", "-"], "--env-json: <stdin> does not hold a JSON object of strings"),
        (["--function", ECHO, "--env-json", "/nowhere"], "Invalid value for '--env-json'"),
        (["--function", ECHO, "--env", "AWS_REGION=x"], "AWS_REGION is Lambda's own"),
        (["--function", ECHO, "--port", "70000"], "Invalid value for '--port'"),
        (["--function", ECHO, "--log-dir", "/dev/null/logs"], "log-dir: cannot create /dev/null/logs/f"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "tidegate_load.lambda_service.cli", "serve", *arguments]
    result = subprocess.run(command, input='{"TOKEN": ["hidden"]}', capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("tidegate-lambda: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "hidden" not in result.stderr


def test_no_variable_of_a_function_is_on_a_command_line() -> None:
    with Service({"describe": "app.describe"}, env={"TOKEN": "s3cret\nword"}) as service:
        assert service.invoke("describe").payload["variables"]["TOKEN"] == "s3cret\nword"
        processes = [psutil.Process(service.process.pid), *service.descendants()]
        assert not any("s3cret" in " ".join(process.cmdline()) for process in processes)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = LambdaServiceProcess({"f": f"{FUNCTIONS}:app.echo"}, port=port)
        with pytest.raises(LambdaServiceStartError, match=f"port {port}: Address already in use; choose another"):
            process.start()
        assert process.close() is None


def test_logs_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    with Service({"echo": "app.echo", "raises": "raises_in_init.handler"}, log_dir=tmp_path) as service:
        request = service.invoke("echo", say="high water").headers["x-amzn-requestid"]
        service.invoke("raises")
    (stream,) = (tmp_path / "echo").iterdir()
    lines = stream.read_text().splitlines()
    assert lines[0].startswith("INIT_START Runtime Version: python:3.")
    assert lines[1:4] == [
        f"START RequestId: {request} Version: $LATEST",
        "echo says high water",
        f"END RequestId: {request}",
    ]
    assert lines[4].startswith(f"REPORT RequestId: {request}\tDuration: ")
    (stream,) = (tmp_path / "raises").iterdir()
    assert "the tide is out" in stream.read_text()
    assert "Status: error\tError Type: RuntimeError" in stream.read_text()


def test_the_service_runs_inside_an_asyncio_program() -> None:
    async def program() -> None:
        async with LambdaService([Function(name="f", directory=FUNCTIONS, handler="app.echo")]) as service:
            outcome = await service.invoke("f", service.invocation("f", b'{"n": 1}'))
            assert outcome.cold_start
            assert not outcome.answer.failed
            assert service.stats()["f"]["invocations"] == 1

    asyncio.run(program(), debug=False)


def test_functions_of_one_service_share_their_variables() -> None:
    functions = [
        Function(name=name, directory=FUNCTIONS, handler="app.echo", environment={"NAME": name})
        for name in ("ebb", "flow")
    ]

    async def program() -> None:
        with pytest.raises(ConfigurationError, match="same environment variables"):
            LambdaService(functions)

    asyncio.run(program())
