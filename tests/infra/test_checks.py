"""What others say about the templates: cdk-nag, cfn-lint; and a picture of the default one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.infra.conftest import ROOT, environment
from tests.infra.template import Assembly

SNAPSHOT = Path(__file__).parent / "snapshots" / "tidegate-proxy.json"


def test_cdk_nag_finds_nothing_that_is_not_acknowledged_with_a_reason(
    default: Assembly, small: Assembly, existing: Assembly, isolated: Assembly
) -> None:
    for assembly in (default, small, existing, isolated):
        report = json.loads((assembly.folder / "validation-report.json").read_text())
        (rules,) = [plugin for plugin in report["pluginReports"] if plugin["pluginName"] == "AwsSolutions"]
        assert (rules["conclusion"], rules["violations"]) == ("success", [])
        # A report that had looked at nothing would be clean, too.
        assert rules["suppressedViolations"]
        for finding in rules["suppressedViolations"]:
            assert len(finding["reason"].split()) >= 5, finding


def test_cfn_lint_finds_nothing(synthesised: Path) -> None:
    paths = [str(path) for path in sorted(synthesised.glob("*/*.template.json"))]
    assert len(paths) >= 12
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--config-file", str(ROOT / "infra/.cfnlintrc"), *paths]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_default_template_is_as_it_was(default: Assembly) -> None:
    """A change that is meant: `python -m tests.infra.snapshot` renews the picture."""
    assert stable(default["proxy"].body) == json.loads(SNAPSHOT.read_text())


def stable(body: Any) -> Any:
    """A template without what changes with every file of the proxy: hashes of assets and of their revisions."""
    text = json.dumps(body, sort_keys=True)
    return json.loads(re.sub(r"[0-9a-f]{64}", "HASH", text))
