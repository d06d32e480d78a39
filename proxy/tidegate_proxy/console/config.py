"""SHOW CONFIG: every setting that is no table, with its value and its default, never a secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from tidegate_proxy.console.table import Row, Table, text
from tidegate_proxy.settings.errors import TABLES
from tidegate_proxy.settings.live import LIVE

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy


def shown(value: Any) -> str | None:
    """A setting's value as text; the secret itself never."""
    if value is None or value is PydanticUndefined:
        return None
    if isinstance(value, SecretStr):
        return "..."
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (tuple, frozenset, set)):
        return ",".join(str(shown(part)) for part in value)
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value, default=str)


def config(proxy: Proxy) -> Table:
    """Every setting: its value, its default, and whether it can be changed while the proxy runs."""
    rows: list[Row] = []
    for name, field in sorted(type(proxy.settings).model_fields.items()):
        if name not in TABLES:
            value = shown(getattr(proxy.settings, name))
            rows.append((name, value, shown(field.default), "yes" if name in LIVE else "no"))
    return Table(text("key", "value", "default", "changeable"), rows)
