"""Without a compiler: one warning and an interpreted core, or one error for whoever insists on the compiled one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.proxy.building.header import ROOT
from tests.proxy.building.trees import build, compiled, run, sources

from tidegate_proxy import __version__
from tidegate_proxy.core import COMPILED

MISSING = {
    "a compiler that does not work": ({"CC": "false"}, "the C compiler (false) does not work"),
    "no compiler": ({"CC": "no-such-compiler"}, "there is no C compiler (no-such-compiler)"),
}


@pytest.mark.parametrize(("variables", "reason"), MISSING.values(), ids=MISSING)
def test_a_missing_compiler_is_one_line_and_no_failure(tmp_path: Path, variables: dict[str, str], reason: str) -> None:
    root = sources(tmp_path)
    done = build(root, **variables)
    assert (done.returncode, done.stdout) == (0, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: the proxy's core is not compiled and will be interpreted: ")
    assert reason in line
    assert run(root, "-m", "tidegate_proxy", "--version").stdout == f"tidegate-proxy {__version__} (interpreted core)\n"


def test_a_missing_cython_is_the_same(tmp_path: Path) -> None:
    root = sources(tmp_path)
    (root / "proxy/Cython.py").write_text("raise ImportError\n")
    done = build(root)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "warning: the proxy's core is not compiled and will be interpreted: Cython is not installed\n"
    )


def test_without_a_compiler_no_old_modules_stay_beside_new_sources(tmp_path: Path) -> None:
    root = sources(tmp_path)
    compiled(root).mkdir()
    (compiled(root) / "client.so").touch()
    assert build(root, CC="false").returncode == 0
    assert not compiled(root).exists()


def test_whoever_insists_on_compiling_gets_an_error(tmp_path: Path) -> None:
    done = build(sources(tmp_path), core="compiled", CC="false")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the proxy's core cannot be compiled: the C compiler (false)")
    assert len(done.stderr.splitlines()) == 1


def test_asking_for_the_interpreted_core_builds_nothing_and_destroys_nothing(tmp_path: Path) -> None:
    root = sources(tmp_path)
    compiled(root).mkdir()
    done = build(root, core="interpreted")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(compiled(root).iterdir()) == []


@pytest.mark.parametrize("command", ["--version", "serve"])
def test_a_compiled_core_that_was_not_built_is_one_line(tmp_path: Path, command: str) -> None:
    root = sources(tmp_path)
    (root / "proxy.toml").write_text('[databases.app]\nhost = "127.0.0.1"\n')
    done = run(root, "-m", "tidegate_proxy", command, *(["proxy.toml"] if command == "serve" else []), core="compiled")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "Error: TIDEGATE_PROXY_CORE asks for the compiled core, but it was not built: run make build\n"
    )


def test_a_core_that_there_is_not_is_one_line() -> None:
    done = run(ROOT, "-m", "tidegate_proxy", "--version", core="fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith('Error: TIDEGATE_PROXY_CORE is "fast": say "compiled", "interpreted" or nothing')


def test_the_version_says_which_core_these_tests_run_on() -> None:
    name = "compiled" if COMPILED else "interpreted"
    for core in ("interpreted", name):
        assert run(ROOT, "-m", "tidegate_proxy", "--version", core=core).stdout == (
            f"tidegate-proxy {__version__} ({core} core)\n"
        )
