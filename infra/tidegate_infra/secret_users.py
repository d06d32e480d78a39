"""Which database user a secret belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from aws_cdk import Token
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import IConstruct

from tidegate_infra.errors import DeploymentError


def by_user(
    secrets: Sequence[secretsmanager.ISecret] | Mapping[str, secretsmanager.ISecret],
) -> dict[str, secretsmanager.ISecret]:
    """The secrets by the database user that each one holds.

    Parameters: `secrets`, by user, or a list of secrets that are made by this app and so tell their users.
    Raises: DeploymentError for one that does not tell.
    """
    if isinstance(secrets, Mapping):
        return dict(secrets)
    found: dict[str, secretsmanager.ISecret] = {}
    for secret in secrets:
        user = username(secret)
        if user is None:
            raise DeploymentError(
                f"secrets: nothing here tells which database user {secret.node.path} is for: give them by user, "
                'for example secrets={"app": secret}'
            )
        found[user] = secret
    return found


def username(secret: secretsmanager.ISecret) -> str | None:
    """The user in the template that the secret is generated from; None if it is not made here."""
    node: IConstruct | None = secret
    while node is not None and not isinstance(node, secretsmanager.Secret):
        node = node.node.scope  # an attachment of RDS's stands below its secret
    child = node.node.default_child if node is not None else None
    if not isinstance(child, secretsmanager.CfnSecret):
        return None
    generated = child.generate_secret_string
    template = getattr(generated, "secret_string_template", None)
    if not template or Token.is_unresolved(template):
        return None
    found = json.loads(template).get("username")
    return found if isinstance(found, str) else None
