"""The page of parameters is what the model says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.infra.conftest import ROOT

from tidegate_infra.app import reference
from tidegate_infra.app.parameters import Parameters, read_parameters


def test_the_page_is_what_the_script_writes() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "python -m tidegate_infra.app.reference"


def test_every_parameter_says_what_it_means() -> None:
    for name, field in Parameters.model_fields.items():
        assert field.description, name


def test_the_readmes_environment_can_be_deployed(tmp_path: Path) -> None:
    text = (ROOT / "infra" / "README.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    environments = json.loads("{" + block + "}")
    (tmp_path / "ca.pem").touch()
    environments["prod"]["ca_certificate"] = str(tmp_path / "ca.pem")
    found = read_parameters(environments, "prod", {})
    assert (found.name, found.database, found.functions) == ("shop", "existing", False)
