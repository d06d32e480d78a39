"""Synthesises the app in every configuration, with cdk-nag's rules: `python -m tests.infra.synthesise FOLDER`.

One process for all of them: starting jsii takes longer than synthesising.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from tests.infra.configurations import CONFIGURATIONS, context

from tidegate_infra import node as node

import aws_cdk as cdk  # isort: skip
from cdk_nag import AwsSolutionsChecks  # isort: skip
from tidegate_infra.app.build import build, parameters_of  # isort: skip
from tidegate_infra.layer import RUNTIMES, zip_name  # isort: skip


def prepare(folder: Path) -> None:
    """Files that the app wants to find; their content is nobody's business at synth time."""
    authority = folder / "tidegate-ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    # As a umask of 077 leaves it.
    authority.chmod(0o600)
    for python in RUNTIMES:
        for architecture in ("arm64", "x86_64"):
            with zipfile.ZipFile(folder / zip_name(python, architecture), "w") as archive:
                archive.writestr(zipfile.ZipInfo("python/tidegate/__init__.py"), "")


def synthesise(name: str, folder: Path) -> None:
    """One configuration, to `folder/name`."""
    app = cdk.App(outdir=str(folder / name), context=context(name, folder))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    build(app, parameters_of(app))
    app.synth()


def main(folder: Path) -> None:
    prepare(folder)
    for name in CONFIGURATIONS:
        synthesise(name, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
