"""docs/drivers.md says which drivers ran, and what they did."""

from __future__ import annotations

from pathlib import Path

from tests.drivers.page import DRIVERS, FOLDER, page

PAGE = Path(__file__).parents[2] / "docs" / "drivers.md"


def test_the_page_is_what_the_generator_prints() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.drivers.page > docs/drivers.md"


def test_every_driver_is_on_the_page() -> None:
    files = {file.name for file in FOLDER.glob("test_*.py")}
    assert files - {Path(__file__).name} == set(DRIVERS)
