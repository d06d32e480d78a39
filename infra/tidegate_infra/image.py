"""The container image: built from `proxy/Dockerfile` by `cdk deploy`, or one that exists already."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from tidegate_infra.errors import DeploymentError

CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = "proxy/Dockerfile"

PLATFORMS = {
    "arm64": ecr_assets.Platform.LINUX_ARM64,
    "x86_64": ecr_assets.Platform.LINUX_AMD64,
}


def proxy_image(scope: Construct, *, architecture: str, checkout: Path = CHECKOUT) -> ecs.ContainerImage:
    """The image asset. At synth time only its files are hashed; Docker is needed by `cdk deploy`.

    Parameters: `architecture`, arm64 or x86_64; `checkout`, the repository's folder.
    Raises: DeploymentError where `tidegate_infra` runs without a checkout around it.
    """
    return image_asset(scope, "Image", DOCKERFILE, architecture=architecture, checkout=checkout)


def image_asset(
    scope: Construct, name: str, dockerfile: str, *, architecture: str, checkout: Path = CHECKOUT
) -> ecs.ContainerImage:
    """An image built from `dockerfile`, a path within `checkout`, with the checkout as its context."""
    if not (checkout / dockerfile).is_file():
        raise DeploymentError(
            f"image: there is no {dockerfile} in {checkout}: work in a checkout of Tidegate, or give an image, "
            'for example image=ecs.ContainerImage.from_registry("REGISTRY/tidegate:TAG")'
        )
    asset = ecr_assets.DockerImageAsset(
        scope,
        name,
        directory=str(checkout),
        file=dockerfile,
        platform=PLATFORMS[architecture],
        # .dockerignore lets in what the Dockerfiles copy and nothing else, so that nothing else makes a new image.
        exclude=[line for line in (checkout / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")],
    )
    return ecs.ContainerImage.from_docker_image_asset(asset)
