"""The page of parameters is what the model says."""

from __future__ import annotations

from tidegate_infra.app import reference
from tidegate_infra.app.parameters import Parameters


def test_the_page_is_what_the_script_writes() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "python -m tidegate_infra.app.reference"


def test_every_parameter_says_what_it_means() -> None:
    for name, field in Parameters.model_fields.items():
        assert field.description, name
