"""The Lambda layer, from the zip files that `make layer` builds."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import RemovalPolicy
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from tidegate_infra.errors import DeploymentError
from tidegate_infra.image import CHECKOUT

RUNTIMES = {
    "3.12": lambda_.Runtime.PYTHON_3_12,
    "3.13": lambda_.Runtime.PYTHON_3_13,
    "3.14": lambda_.Runtime.PYTHON_3_14,
}
"""The Pythons that the layer is built for."""

ARCHITECTURES = {"arm64": lambda_.Architecture.ARM_64, "x86_64": lambda_.Architecture.X86_64}

ZIPS = CHECKOUT / "dist"


def zip_name(python: str, architecture: str) -> str:
    """What `make layer` calls the file."""
    return f"tidegate-layer-py{python.replace('.', '')}-{architecture}.zip"


class TidegateLayer(Construct):
    """One version of the layer, for one Python and one architecture.

    Attributes: `layer_version`; `runtime` and `architecture`, for functions that use it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        python: str = "3.13",
        architecture: str = "arm64",
        zips: Path = ZIPS,
        retain: bool = False,
    ) -> None:
        """Parameters: `python` and `architecture` of the functions; `zips`, the folder that `make layer` writes to;
        `retain`, keep the version when a newer one replaces it, for functions of other stacks.

        Raises: DeploymentError for a Python or an architecture that the layer is not built for, or a missing zip.
        """
        super().__init__(scope, construct_id)
        if python not in RUNTIMES:
            raise DeploymentError(f"python: {python!r} is not one that the layer is built for: {', '.join(RUNTIMES)}")
        if architecture not in ARCHITECTURES:
            raise DeploymentError(f"architecture: {architecture!r} must be one of {', '.join(ARCHITECTURES)}")
        file = zips / zip_name(python, architecture)
        if not file.is_file():
            raise DeploymentError(
                f"zips: there is no {file}: build it with `make layer ARCH={architecture} PYTHON={python}`"
            )
        self.runtime = RUNTIMES[python]
        self.architecture = ARCHITECTURES[architecture]
        self.layer_version = lambda_.LayerVersion(
            self,
            "Version",
            code=lambda_.Code.from_asset(str(file)),
            description=f"Tidegate for Python {python} on {architecture}",
            license="Apache-2.0",
            compatible_runtimes=[self.runtime],
            compatible_architectures=[self.architecture],
            removal_policy=RemovalPolicy.RETAIN if retain else RemovalPolicy.DESTROY,
        )
