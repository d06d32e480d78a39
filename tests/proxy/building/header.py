"""Which core the tests run on, in pytest's header; and no run on a compiled core that is older than its sources."""

from __future__ import annotations

import hashlib
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMPILED = Path("proxy/tidegate_proxy/core/compiled")


def outdated(root: Path) -> str:
    """Why the compiled core in this checkout is not what its sources say; "" if it is, or if there is none."""
    folder = root / COMPILED
    if not any(folder.glob(f"*{EXTENSION_SUFFIXES[0]}")):
        return ""
    try:
        record = (folder / "SOURCES").read_text()
    except FileNotFoundError:
        return "it does not say what it was compiled of"
    recorded = {name: digest for digest, name in (line.split(maxsplit=1) for line in record.splitlines())}
    here = {path.relative_to(root).as_posix() for path in folder.parent.iterdir() if path.suffix in _SUFFIXES}
    for name in sorted(here | recorded.keys()):
        if name not in recorded:
            return f"{name} is new"
        if not (root / name).exists():
            return f"{name} is gone"
        if hashlib.sha256((root / name).read_bytes()).hexdigest() != recorded[name]:
            return f"{name} has changed"
    return ""


_SUFFIXES = (".py", ".pxd", ".pyx")


def pytest_configure() -> None:
    """Refuse to test what nobody has written."""
    if os.environ.get("TIDEGATE_PROXY_CORE") != "interpreted" and (why := outdated(ROOT)):
        pytest.exit(f"the compiled core is older than its sources ({why}): run make build", returncode=2)


def pytest_report_header() -> str:
    """One line of the header."""
    try:
        from tidegate_proxy.core import COMPILED
    except ImportError as error:
        pytest.exit(str(error), returncode=2)
    return f"core: {'compiled' if COMPILED else 'interpreted'}"
