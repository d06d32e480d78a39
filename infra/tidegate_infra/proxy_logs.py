"""The proxy's log group, encrypted with a key of its own."""

from __future__ import annotations

from aws_cdk import ArnFormat, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct


def encrypted_log_group(scope: Construct, name: str, *, retention: logs.RetentionDays) -> logs.LogGroup:
    """A log group that goes when its stack goes, and its key.

    Parameters: `name`, the group's, which the key's policy is bound to; `retention`, how long lines are kept.
    """
    stack = Stack.of(scope)
    key = kms.Key(
        scope,
        "LogKey",
        description=f"Logs of {name}",
        enable_key_rotation=True,
        removal_policy=RemovalPolicy.DESTROY,
    )
    arn = stack.format_arn(
        service="logs", resource="log-group", resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="CloudWatchLogs",
            principals=[iam.ServicePrincipal(f"logs.{stack.region}.amazonaws.com")],
            actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
            # In a key's own policy "*" is this key, and nothing else can be said.
            resources=["*"],
            conditions={"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": arn}},
        )
    )
    return logs.LogGroup(
        scope,
        "Logs",
        log_group_name=name,
        encryption_key=key,
        retention=retention,
        removal_policy=RemovalPolicy.DESTROY,
    )
