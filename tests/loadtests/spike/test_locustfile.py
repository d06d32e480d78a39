"""The Locust file alone, against the local Lambda service with small functions."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tidegate_load.lambda_service import LambdaServiceProcess
from tidegate_load.spike.load import LOCUSTFILE
from tidegate_load.spike.recording import Invocation, ResultReader
from tidegate_load.spike.series import peak_in_flight

COMMITS = """
def handler(event, context):
    return {"committed": True, "id": event["id"]}
"""
FAILS = """
def handler(event, context):
    raise RuntimeError(f"no row {event['id']} for 'someone'")
"""
SMALL = ["--peak", "8", "--ramp", "1", "--hold", "1", "--fall", "1", "--min-invocations", "30"]


def run_locust(folder: Path, endpoint: str, *options: str) -> tuple[list[Invocation], str]:
    """The invocations it recorded, and what it said."""
    results = folder / "results.csv"
    command: list[str | Path] = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless"]
    command += ["--only-summary", "--exit-code-on-error", "0", "--results", results]
    done = subprocess.run(
        [*command, "--endpoint-url", endpoint, "--function", "f", *SMALL, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=220,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    with closing(ResultReader(results)) as reader:
        return reader.read(), done.stdout + done.stderr


def service(folder: Path, code: str, concurrency: int = 100) -> LambdaServiceProcess:
    (folder / "function.py").write_text(code)
    return LambdaServiceProcess({"f": f"{folder}:function.handler"}, concurrency=concurrency)


def test_every_invocation_of_the_service_is_recorded(tmp_path: Path) -> None:
    with service(tmp_path, COMMITS) as running:
        made, _ = run_locust(tmp_path, running.endpoint, "--html", "locust.html")
        stats = running.stats()["f"]
    assert len(made) == stats["invocations"] >= 30
    assert {each.outcome for each in made} == {"ok"}
    assert all(each.committed and 1 <= each.id <= 1000 for each in made)
    assert sum(each.cold_start for each in made) == stats["cold_starts"]
    assert peak_in_flight(made) == 8
    assert "<html" in (tmp_path / "locust.html").read_text()


def test_failures_are_recorded_and_grouped_by_kind(tmp_path: Path) -> None:
    with service(tmp_path, FAILS) as running:
        made, said = run_locust(tmp_path, running.endpoint)
    assert {each.outcome for each in made} == {"RuntimeError: no row N for …"}
    assert not any(each.committed for each in made)
    assert "InvocationFailedError('RuntimeError: no row N for …')" in said


def test_throttled_invocations_are_failures_and_not_retried(tmp_path: Path) -> None:
    slow = "import time\n" + COMMITS.replace("    return", "    time.sleep(0.05)\n    return")
    with service(tmp_path, slow, concurrency=1) as running:
        made, _ = run_locust(tmp_path, running.endpoint)
        stats = running.stats()["f"]
    assert {each.outcome for each in made} == {"ok", "throttled (429)"}
    assert sum(each.outcome != "ok" for each in made) == stats["throttles"]


def test_a_service_that_is_not_there_is_a_kind_of_failure(tmp_path: Path) -> None:
    made, _ = run_locust(tmp_path, "http://127.0.0.1:1")
    assert {each.outcome for each in made} == {"Lambda service not reachable"}
