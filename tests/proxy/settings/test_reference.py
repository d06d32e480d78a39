"""docs/configuration.md says what the settings are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from tidegate_proxy.settings import DatabaseSettings, IamRule, IamSettings, Settings, UserSettings

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_what_the_generator_prints() -> None:
    generator = [sys.executable, "-m", "tidegate_proxy.settings_reference"]
    ran = subprocess.run(generator, capture_output=True, text=True, timeout=60, check=True)
    assert PAGE.read_text() == ran.stdout, f"run: {' '.join(generator)} > docs/configuration.md"


@pytest.mark.parametrize("model", [Settings, DatabaseSettings, UserSettings, IamSettings, IamRule])
def test_every_setting_is_described(model: type[BaseModel]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
