"""`tidegate-spike demo` in small: real servers, real environments, and Ctrl-C in the middle of it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tidegate_load.spike.promises import DIRECT, LAYER, PROXY
from tidegate_load.spike.recording import Recording
from tidegate_load.spike.report import locust_report, raw_file

DEMO = [sys.executable, "-m", "tidegate_load.spike.cli", "demo", "--peak", "30", "--min-invocations", "200"]
DEMO += ["--max-connections", "12", "--pool-size", "4", "--ramp", "1", "--hold", "1", "--fall", "1"]
DEMO += ["--function-timeout", "8"]

HOSTILE = {
    "TIDEGATE_HOST": "192.0.2.1",
    "TIDEGATE_DEFAULT_POOL_SIZE": "nonsense",
    "PGSSLMODE": "verify-full",
    "PGGSSENCMODE": "require",
    "PGSERVICE": "nosuchservice",
    "PGOPTIONS": "--nonsense",
    "PGHOSTADDR": "192.0.2.1",
    "AWS_PROFILE": "nosuchprofile",
    "AWS_ENDPOINT_URL_LAMBDA": "http://192.0.2.1",
    "LOCUST_RUN_TIME": "1s",
} | dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
"""Each of these is ordinary in somebody's shell, and would break the demo if it got through."""


# What it does takes a minute on two processors that do nothing else.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where the demo's temporary files go; at the end none may be left."""
    # Not below tmp_path: PostgreSQL may run as another user, who must be able to pass through.
    folder = Path(tempfile.mkdtemp(prefix="tidegate-demo-"))
    folder.chmod(0o1777)
    try:
        yield folder
        # A copy of PostgreSQL's programs, made where their own place is private, is meant to stay.
        assert [path for path in folder.iterdir() if not path.name.startswith("tidegate-postgres-")] == []
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def running(tmp_path: Path, scratch: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo in the test's folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*DEMO, *options],
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(scratch)} | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_small_demo_keeps_its_promises(tmp_path: Path, running: Callable[..., subprocess.Popen[str]]) -> None:
    process = running("--output", "reports/small")
    said, _ = process.communicate(timeout=220)
    assert process.returncode == 0, said
    folder = tmp_path / "reports/small"
    assert re.search(r"direct +layer alone +layer and proxy", said)
    assert f"Report: {folder / 'report.html'}" in said
    for name in (DIRECT, LAYER, PROXY):
        assert locust_report(folder, name).stat().st_size > 0
    assert (folder / "report.png").stat().st_size > 0

    direct, proxied = (Recording.load(raw_file(folder, name)) for name in (DIRECT, PROXY))
    assert direct.peak_connections == 12
    assert "too many clients already" in direct.errors
    assert proxied.errors == {}
    assert 0 < proxied.peak_connections_of("counter") <= 4
    assert proxied.accounting is not None
    assert proxied.accounting.stored == len(proxied.invocations) >= 200
    assert all(each.environments for each in (direct, proxied))


def test_what_the_shell_says_has_no_part_in_the_demo(running: Callable[..., subprocess.Popen[str]]) -> None:
    process = running(variables=HOSTILE)
    said, _ = process.communicate(timeout=220)
    assert process.returncode == 0, said


def test_a_demo_that_breaks_a_promise_says_which_and_fails(
    running: Callable[..., subprocess.Popen[str]],
) -> None:
    # Connections enough for everyone: nothing fails, so direct does not show what it should.
    process = running("--max-connections", "60")
    said, _ = process.communicate(timeout=220)
    assert process.returncode == 1, said
    assert re.search(r"^broken direct: at least 50% of the invocations at the peak fail: 0 of", said, re.MULTILINE)
    assert re.search(r"^broken direct: every connection of the database is used", said, re.MULTILINE)
    assert "Traceback" not in said


@pytest.mark.parametrize("phase", ["direct: starting", "direct: spike", "layer and proxy: spike"])
def test_ctrl_c_leaves_nothing_behind(running: Callable[..., subprocess.Popen[str]], phase: str) -> None:
    process = running()
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(phase):
            break
    else:
        pytest.fail(f"{phase!r} never came: {said}")
    children = wait_for_children(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # an impatient person
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said + rest
    assert "Stopped; everything that was started has ended." in rest
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def wait_for_children(pid: int) -> list[psutil.Process]:
    """All descendants, as soon as the Lambda service is among them."""
    deadline = time.monotonic() + 60
    while True:
        children = psutil.Process(pid).children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "tidegate_load.lambda_service.cli" in child.cmdline():
                    return children
        assert time.monotonic() < deadline, "the demo started no Lambda service"
        time.sleep(0.02)


def test_a_terminal_shows_progress_in_place_and_ctrl_c_stops_it(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        DEMO, cwd=tmp_path, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    said = b""
    children: list[psutil.Process] = []
    try:
        while b"spike" not in said.partition(b"connections")[2]:
            said += os.read(leader, 65536)
        children = wait_for_children(process.pid)
        process.send_signal(signal.SIGINT)
        while chunk := _read(leader):
            said += chunk
        assert process.wait(timeout=120) == 130
    finally:
        os.close(leader)
        # Each child has a session of its own, so the group of the demo is not all.
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        for child in alive:
            child.kill()
    assert alive == []
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    for word in ("phase", "environments", "in flight", "done", "failed", "connections", "direct"):
        assert word in text
    assert "Stopped; everything that was started has ended." in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way to say that the other side of a terminal is closed
        return b""
