"""What the proxy may do in AWS: read the secrets that it was given, log in to its database, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jsii
from aws_cdk import ArnFormat, IStableListProducer, Lazy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge


@jsii.implements(IStableListProducer)
class _Produced:
    def __init__(self, make: Callable[[], list[str]]) -> None:
        self._make = make

    def produce(self) -> list[str]:
        return self._make()


def task_role(scope: Construct, given: iam.IRole | None) -> iam.IRole:
    """The role that the proxy itself runs as."""
    return given or iam.Role(
        scope,
        "TaskRole",
        description="The Tidegate proxy: its secrets and its database",
        assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
    )


def execution_role(scope: Construct, log_group: logs.ILogGroup) -> iam.Role:
    """The role with which ECS fetches the image and writes logs."""
    role = iam.Role(
        scope,
        "ExecutionRole",
        description="ECS: image and logs of the Tidegate proxy",
        assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
    )
    log_group.grant_write(role)
    # ecr:GetAuthorizationToken, which CDK allows for an image of one's own: AWS knows no narrower resource for it.
    acknowledge(role, "AwsSolutions-IAM5[Resource::*]", "ecr:GetAuthorizationToken knows no resource but *")
    return role


def allow_secret(grantee: iam.IGrantable, secret: secretsmanager.ISecret) -> None:
    """Let a principal read the secret, and decrypt it where it has a key of its own."""
    secret.grant_read(grantee)
    if secret.encryption_key is None:
        return
    # CDK would allow it in the key's own policy, which it cannot change for a key that exists already.
    via = f"secretsmanager.{Stack.of(secret).region}.amazonaws.com"
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["kms:Decrypt"],
            resources=[secret.encryption_key.key_arn],
            conditions={"StringEquals": {"kms:ViaService": via}},
        )
    )


def allow_database_users(
    scope: Construct, role: iam.IRole, *, resource_id: str, users: Callable[[], Sequence[str]]
) -> None:
    """Let the role log in to the database by IAM, as the users that are granted until the stack is synthesised.

    Parameters: `resource_id`, RDS's name for the instance or cluster.
    """
    stack = Stack.of(scope)

    def arns() -> list[str]:
        return [
            stack.format_arn(
                service="rds-db",
                resource="dbuser",
                resource_name=f"{resource_id}/{user}",
                arn_format=ArnFormat.COLON_RESOURCE_NAME,
            )
            for user in users()
        ]

    role.add_to_principal_policy(
        iam.PolicyStatement(actions=["rds-db:connect"], resources=Lazy.list(_Produced(arns), omit_empty=True))
    )
