"""The command: what it writes, how it ends, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.support.proxy import eventually

COMMAND = [sys.executable, "-m", "tidegate_load.bench.cli"]
STORM = ["run", "--scenario", "storm", "--case", "plain scram", "--storm", "4", "--rounds", "1"]
STORM += ["--endpoint", "tidegate-interpreted", "--endpoint", "direct", "--quick"]

HOSTILE = {
    "TIDEGATE_DEFAULT_POOL_SIZE": "nonsense",
    "TIDEGATE_HOST": "192.0.2.1",
    "PGSSLMODE": "verify-full",
    "PGHOSTADDR": "192.0.2.1",
    "PGOPTIONS": "--nonsense",
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=os.environ | HOSTILE,
        capture_output=True,
        text=True,
        check=False,
        timeout=220,
    )


def test_a_run_and_then_its_page_with_paths_relative_to_where_one_stands(tmp_path: Path) -> None:
    done = run(tmp_path, *STORM, "--output", "here/run.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last first row" in done.stdout
    data = json.loads((tmp_path / "here" / "run.json").read_text())
    assert data["complete"] is True
    assert {each["endpoint"] for each in data["measurements"]} == {"direct", "tidegate-interpreted"}
    assert data["command"].startswith("tidegate-bench run --scenario storm")
    assert "here" not in data["command"]
    assert str(tmp_path) not in json.dumps(data)
    assert (tmp_path / "here" / "storm.png").exists()

    (tmp_path / "notes.md").write_text("## By hand\n")
    done = run(tmp_path, "page", "here/run.json", "--output", "docs/performance.md", "--notes", "notes.md")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "## By hand" in text
    assert str(tmp_path) not in text


def test_ctrl_c_ends_everything_and_keeps_what_was_measured(tmp_path: Path) -> None:
    arguments = ["run", "--scenario", "storm", "--case", "scram", "--storm", "4", "--rounds", "10000", "--quick"]
    arguments += ["--endpoint", "tidegate-interpreted", "--output", "run.json"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stdout=output, stderr=output)
    try:
        eventually(lambda: "round 2" in log.read_text(), timeout=60, what="the second round")
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert "Stopped" in log.read_text()
    eventually(lambda: not any(child.is_running() for child in children), what="the end of all children")
    data = json.loads((tmp_path / "run.json").read_text())
    assert data["complete"] is False
    assert data["measurements"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--scenario", "nosuch"], "no scenario 'nosuch': choose from a (queries)"),
        (["run", "--endpoint", "nosuch"], "no endpoint 'nosuch': choose from direct"),
        (["run", "--case", "nosuch"], "--list shows the cases"),
        (["run", "--rounds", "0"], "--rounds"),
        (["page", "nosuch.json"], "nosuch.json"),
    ],
)
def test_bad_options_are_said_in_a_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_a_file_that_is_no_run_makes_no_page(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    done = run(tmp_path, "page", "run.json", "--output", "page.md")
    assert done.returncode == 1
    assert "not a run of the benchmark" in done.stderr
    assert not (tmp_path / "page.md").exists()


def test_too_few_open_files_are_said_before_anything_starts(tmp_path: Path) -> None:
    limited = ["/bin/sh", "-c", 'ulimit -n 400 && exec "$@"', "sh", *COMMAND, "run", "--scenario", "idle"]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "5000 clients need 5300 open files, but the hard limit is 400" in " ".join(done.stdout.split())


def test_the_list_names_cases_and_what_is_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "--list", "--scenario", "bulk")
    assert done.returncode == 0
    assert "1000 MB out, COPY" in done.stdout
    assert "tidegate-interpreted" in done.stdout
