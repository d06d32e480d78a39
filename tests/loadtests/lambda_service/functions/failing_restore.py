"""A function whose SnapStart hook fails after the restore."""

from typing import Any

import snapshot_restore_py  # type: ignore[import-untyped]


def hook() -> None:
    """Run after the restore."""
    raise ValueError("not today")


snapshot_restore_py.register_after_restore(hook)


def handler(event: Any, context: Any) -> None:
    """Never runs."""
