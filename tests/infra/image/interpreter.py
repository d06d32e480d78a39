"""Python in place of the base image's: of the same version where this machine has one, and for every user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NEEDED = "import ensurepip, sys, venv; print(*sys.version_info[:2], sep='.', end=' '); print(sys.base_prefix)"
UNUSED = ("__pycache__", "config-*", "idlelib", "site-packages", "test", "tkinter", "turtledemo")
"""Parts of the standard library's folder that no container needs."""


def base_python(dockerfile: str, folder: Path) -> Path:
    """An interpreter that any user of this machine can run.

    The images' own version is not to be had as a wheel, so it is used where it is installed, by Debian or pyenv; else
    the version that runs the tests, which the proxy supports as well.
    Parameters: `dockerfile`, its text, for the version; `folder`, where to put a copy if the original is in somebody's
    home.
    """
    found = re.search(r"PYTHON_TAG=(\d+\.\d+)-", dockerfile)
    assert found is not None
    for python in (*_installed(found[1]), Path(getattr(sys, "_base_executable", sys.executable))):
        asked = subprocess.run([str(python), "-c", NEEDED], capture_output=True, text=True, cwd="/")
        if asked.returncode == 0:
            version, _, prefix = asked.stdout.strip().partition(" ")
            return python if _for_everybody(python.resolve()) else _copied(Path(prefix), version, folder / "python")
    raise AssertionError(f"no Python here can make a virtual environment: {asked.stderr}")


def libraries(python: Path) -> dict[str, str]:
    """The variable by which it finds its own library, whose place was fixed when it was built."""
    folder = python.parents[1] / "lib"
    return {"LD_LIBRARY_PATH": str(folder)} if any(folder.glob("libpython*.so*")) else {}


def _installed(version: str) -> Iterator[Path]:
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    home = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(home.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def _for_everybody(path: Path) -> bool:
    return all(place.stat().st_mode & 0o005 == 0o005 for place in (path, *path.parents))


def _copied(prefix: Path, version: str, target: Path) -> Path:
    name = f"python{version}"
    shutil.copytree(prefix / "lib" / name, target / "lib" / name, ignore=shutil.ignore_patterns(*UNUSED), symlinks=True)
    shutil.copytree(prefix / "include" / name, target / "include" / name)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy(library, target / "lib")
    (target / "bin").mkdir()
    shutil.copy(prefix / "bin" / name, target / "bin" / name)
    subprocess.run(["chmod", "-R", "a+rX", str(target)], check=True)
    return target / "bin" / name
