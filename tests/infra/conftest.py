"""The app's templates, synthesised once per test run in a process of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.infra.template import Assembly

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """For Python processes that import what these tests import."""
    path = os.pathsep.join([str(ROOT), *(part for part in sys.path if part)])
    return {**os.environ, "PYTHONPATH": path}


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one cloud assembly per configuration; workers of one run share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "synthesised"
    with (shared / "synthesised.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = shared / "synthesising"
            partial.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tests.infra.synthesise", str(partial)]
            done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def default(synthesised: Path) -> Assembly:
    """The configuration that a bare `cdk deploy` takes."""
    return Assembly(synthesised / "try", "tidegate")


@pytest.fixture(scope="session")
def small(synthesised: Path) -> Assembly:
    """Without a load balancer, on RDS."""
    return Assembly(synthesised / "small", "tidegate-small")


@pytest.fixture(scope="session")
def existing(synthesised: Path) -> Assembly:
    """In front of an existing cluster, by IAM, on x86, with Spot."""
    return Assembly(synthesised / "existing", "shop")


@pytest.fixture(scope="session")
def isolated(synthesised: Path) -> Assembly:
    """In a VPC without a way out, without TLS, with the load test."""
    return Assembly(synthesised / "isolated", "tidegate")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of each worker waits for the templates, on a busy machine for longer than one test may take."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))
