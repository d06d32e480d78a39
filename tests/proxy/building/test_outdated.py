"""Tests never run on a compiled core that is older than its sources."""

from __future__ import annotations

import hashlib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from tests.proxy.building.header import ROOT, outdated
from tests.proxy.building.trees import compiled, run, sources


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A checkout that looks as if its core were compiled, with the record that setup.py itself writes."""
    root = sources(tmp_path)
    written = run(root, "-c", "import setup; print(setup.digests(), end='')", PYTHONPATH=str(root))
    assert written.returncode == 0, written.stderr
    compiled(root).mkdir()
    (compiled(root) / f"client{EXTENSION_SUFFIXES[0]}").touch()
    (compiled(root) / "SOURCES").write_text(written.stdout)
    return root


def test_what_was_just_built_is_not_outdated(built: Path) -> None:
    assert outdated(built) == ""
    digest = hashlib.sha256((built / "setup.py").read_bytes()).hexdigest()
    assert f"{digest}  setup.py" in (compiled(built) / "SOURCES").read_text().splitlines()


@pytest.mark.parametrize("name", ["setup.py", "proxy/tidegate_proxy/core/client.py"])
def test_a_changed_file_is_named(built: Path, name: str) -> None:
    with (built / name).open("a") as file:
        file.write("# changed\n")
    assert outdated(built) == f"{name} has changed"


def test_new_and_missing_files_are_named(built: Path) -> None:
    core = "proxy/tidegate_proxy/core"
    (built / core / "new.pyx").touch()
    assert outdated(built) == f"{core}/new.pyx is new"
    (built / core / "new.pyx").unlink()
    (built / core / "server.pxd").unlink()
    assert outdated(built) == f"{core}/server.pxd is gone"


def test_modules_without_a_record_are_outdated(built: Path) -> None:
    (compiled(built) / "SOURCES").unlink()
    assert outdated(built) == "it does not say what it was compiled of"


def test_where_nothing_is_compiled_nothing_is_outdated(tmp_path: Path) -> None:
    assert outdated(sources(tmp_path)) == ""


def test_pytest_refuses_to_start_on_an_outdated_core(built: Path) -> None:
    checks = built / "tests/proxy/building"
    checks.mkdir(parents=True)
    (checks / "header.py").write_text((ROOT / "tests/proxy/building/header.py").read_text())
    (built / "conftest.py").write_text('pytest_plugins = ["tests.proxy.building.header"]\n')
    (built / "tests/test_one.py").write_text("def test_one():\n    pass\n")
    (built / "setup.py").write_text("changed")
    refused = run(built, "-m", "pytest", "-p", "no:cacheprovider", "tests")
    assert refused.returncode == 2
    assert "(setup.py has changed): run make build" in refused.stdout + refused.stderr
    ran = run(built, "-m", "pytest", "-p", "no:cacheprovider", "tests", core="interpreted")
    assert ran.returncode == 0, ran.stdout
    assert "core: interpreted" in ran.stdout
