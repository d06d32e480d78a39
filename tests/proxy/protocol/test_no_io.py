"""The protocol code knows nothing of sockets, clocks and loops."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tidegate_proxy.protocol

FOLDER = Path(tidegate_proxy.protocol.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))
FORBIDDEN = {"asyncio", "logging", "select", "selectors", "socket", "ssl", "threading", "time", "uvloop"}


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_imports_anything_that_waits_or_logs(path: Path) -> None:
    assert not imported(path.read_text()) & FORBIDDEN


def test_the_check_sees_modules_and_imports_however_they_are_written() -> None:
    assert len(MODULES) >= 8
    assert imported("import a.b\nfrom c.d import e\ndef f():\n    import time as t") == {"a", "c", "time"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_imports_the_shell_around_it(path: Path) -> None:
    own = [
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tidegate_proxy")
    ]
    assert all(name == "tidegate_proxy.errors" or str(name).startswith("tidegate_proxy.protocol") for name in own)
