"""A function with SnapStart hooks."""

from typing import Any

import snapshot_restore_py  # type: ignore[import-untyped]

calls: list[str] = []

snapshot_restore_py.register_before_snapshot(calls.append, "before")
snapshot_restore_py.register_after_restore(calls.append, "after")


def handler(event: Any, context: Any) -> list[str]:
    """The hooks that have run."""
    return calls
