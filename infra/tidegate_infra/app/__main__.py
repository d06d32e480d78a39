"""What cdk.json names: `python -m tidegate_infra.app` writes the stacks' templates to the folder that the CDK asks
for."""

from __future__ import annotations

import os
import sys

import aws_cdk as cdk

from tidegate_infra.app.build import build, parameters_of
from tidegate_infra.errors import DeploymentError


def main() -> int:
    """Exit status 2, with a line for each mistake, where the parameters cannot be deployed."""
    app = cdk.App(outdir=os.environ.get("CDK_OUTDIR"))
    try:
        build(app, parameters_of(app))
    except DeploymentError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    app.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
