"""Copies of what the build reads, to be changed and built in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.proxy.building.header import COMPILED, ROOT

CORE = "TIDEGATE_PROXY_CORE"


def sources(folder: Path) -> Path:
    """A copy of the sources, with nothing built; returns its root."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "proxy", folder / "proxy", ignore=shutil.ignore_patterns("compiled", "__pycache__"))
    for name in ("lambda_layer", "infra", "loadtests"):
        (folder / name).mkdir()
    return folder


def run(root: Path, *arguments: str, core: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in such a copy; `core` is TIDEGATE_PROXY_CORE."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PG"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment | {CORE: core, "PYTHONPATH": str(root / "proxy")} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def build(root: Path, *, core: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """What `make build` runs."""
    return run(root, "setup.py", "--quiet", "build_ext", "--inplace", core=core, **variables)


def compiled(root: Path) -> Path:
    """Where the compiled modules would be."""
    return root / COMPILED
