"""Renews the picture of the default template: `python -m tests.infra.snapshot`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.infra.synthesise import prepare, synthesise
from tests.infra.template import Assembly
from tests.infra.test_checks import SNAPSHOT, stable


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        synthesise("try", folder)
        body = stable(Assembly(folder / "try", "tidegate")["proxy"].body)
    SNAPSHOT.parent.mkdir(exist_ok=True)
    SNAPSHOT.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
