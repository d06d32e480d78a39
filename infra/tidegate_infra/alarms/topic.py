"""The topic that alarms are sent to, encrypted."""

from __future__ import annotations

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

SENDERS = ("cloudwatch.amazonaws.com", "events.amazonaws.com")


def alarm_topic(scope: Construct) -> sns.Topic:
    """A topic that CloudWatch and EventBridge may use, and its key: with SNS's own key they could not send."""
    key = kms.Key(
        scope,
        "TopicKey",
        description="Alarms of the Tidegate proxy",
        enable_key_rotation=True,
        removal_policy=RemovalPolicy.DESTROY,
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Senders",
            principals=[iam.ServicePrincipal(name) for name in SENDERS],
            actions=["kms:Decrypt", "kms:GenerateDataKey*"],
            # In a key's own policy "*" is this key, and nothing else can be said.
            resources=["*"],
        )
    )
    topic = sns.Topic(scope, "Topic", master_key=key, enforce_ssl=True, display_name="Tidegate alarms")
    # The topic's own policy, which requires TLS, replaces the one by which SNS lets the account's alarms publish.
    topic.grant_publish(
        iam.ServicePrincipal(
            "cloudwatch.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Stack.of(scope).account}}
        )
    )
    return topic
