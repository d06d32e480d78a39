"""What a client is shown of users that do not exist must be the same at all tasks: they share a secret for it."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra import settings_environment
from tidegate_infra.acknowledge import acknowledge

SETTING = "scram_mock_secret"
_LENGTH = 43
"""Letters and digits: 256 bits."""


def variable(scope: Construct, proxy_name: str) -> dict[str, secretsmanager.ISecret]:
    """The setting's variable, and a generated secret whose whole text is its value. It goes when its stack goes."""
    secret = secretsmanager.Secret(
        scope,
        "MockSecret",
        description=f"{proxy_name}: makes the salts that clients are shown of users that do not exist",
        generate_secret_string=secretsmanager.SecretStringGenerator(password_length=_LENGTH, exclude_punctuation=True),
        removal_policy=RemovalPolicy.DESTROY,
    )
    acknowledge(secret, "AwsSolutions-SMG4", "It opens nothing, and what it makes must stay the same")
    return {settings_environment.variable(SETTING): secret}
