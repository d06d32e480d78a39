"""A table of settings as a TOML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tidegate_proxy.settings.errors import dotted
from tidegate_proxy.settings.models import Settings


def as_toml(data: Mapping[str, Any], remarks: Iterable[str] = ()) -> str:
    """The file that says what `data` does, as `translate` returns it; `remarks` stand above it as comments.

    What is as it would be without saying is left out.
    """
    lines = [f"# {remark}" for remark in remarks]
    for key, value in data.items():
        if isinstance(value, Mapping) or value is None or value == Settings.model_fields[key].default:
            continue
        lines.append(f"{key} = {_value(value)}")
    for table in ("databases", "users"):
        for name, entry in data.get(table, {}).items():
            lines += ["", f"[{dotted((table, name))}]"]
            lines += [f"{key} = {_value(value)}" for key, value in entry.items()]
    return "\n".join(lines).strip() + "\n"


def _value(value: Any) -> str:
    # JSON's strings, numbers and lists are TOML's too.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
