"""Writes docs/deployment_parameters.md: `python -m tidegate_infra.app.reference`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tidegate_infra.app.parameters import Parameters

PAGE = Path(__file__).parents[3] / "docs" / "deployment_parameters.md"

INTRODUCTION = """# Parameters of a deployment

Made by `python -m tidegate_infra.app.reference`. Each one goes into an environment of `infra/cdk.json`, or is given as
`cdk deploy -c NAME=VALUE`, which comes first; an empty value unsets one. `-c environment=NAME` chooses the environment,
`try` by default.

| parameter | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The page, one row for each parameter."""
    rows = [f"| `{name}` | {_default(field)} | {_meaning(field)} |" for name, field in Parameters.model_fields.items()]
    return INTRODUCTION + "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == () or value is PydanticUndefined:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


def main() -> int:
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
