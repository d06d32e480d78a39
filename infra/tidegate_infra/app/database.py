"""The database: one for trying it out, or an existing one that is only referred to."""

from __future__ import annotations

from aws_cdk import ArnFormat, Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.app.network import Network
from tidegate_infra.app.parameters import OWNER, Parameters
from tidegate_infra.capacity import connections_of_serverless
from tidegate_infra.proxy_target import ProxyTarget

LEAST_ACU, MOST_ACU = 0.5, 4
LOGGED = ["postgresql"]
LOGS_KEPT = logs.RetentionDays.ONE_MONTH
"""RDS makes the log groups itself, and would keep their lines for ever."""


def secret_by(scope: Construct, name: str, name_or_arn: str, key: str | None = None) -> secretsmanager.ISecret:
    """A secret that exists.

    Parameters: `key`, ARN of the KMS key that it is encrypted with, None for Secrets Manager's own: whoever may read
    the secret may then use the key for that.
    """
    if key is not None:
        encryption = kms.Key.from_key_arn(scope, f"{name}Key", key)
        if name_or_arn.startswith("arn:"):
            return secretsmanager.Secret.from_secret_attributes(
                scope, name, secret_complete_arn=name_or_arn, encryption_key=encryption
            )
        # Without the six characters that Secrets Manager has put behind the name.
        partial = Stack.of(scope).format_arn(
            service="secretsmanager",
            resource="secret",
            resource_name=name_or_arn,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        return secretsmanager.Secret.from_secret_attributes(
            scope, name, secret_partial_arn=partial, encryption_key=encryption
        )
    if name_or_arn.startswith("arn:"):
        return secretsmanager.Secret.from_secret_complete_arn(scope, name, name_or_arn)
    return secretsmanager.Secret.from_secret_name_v2(scope, name, name_or_arn)


class Database(Construct):
    """Attributes: `target`, for the proxy; `secrets`, by database user, empty where the proxy is to use IAM; `owner`,
    the owner's secret, None for an existing database."""

    def __init__(self, scope: Construct, construct_id: str, parameters: Parameters, network: Network) -> None:
        super().__init__(scope, construct_id)
        self.secrets: dict[str, secretsmanager.ISecret] = {}
        self.owner: secretsmanager.ISecret | None = None
        user = parameters.database_user
        if parameters.database == "existing":
            self.target = self._existing(parameters)
            if self.target.secret is not None:
                self.secrets[user] = self.target.secret
            return
        make = self._aurora if parameters.database == "aurora" else self._rds
        acknowledge(self, "AwsSolutions-SMG4", "A database for trying out: its passwords live as long as it does")
        if parameters.database == "rds":
            acknowledge(self, "AwsSolutions-RDS3", "The cheapest database for trying out; aurora has a second instance")
            acknowledge(self, "AwsSolutions-RDS11", "Who may reach it, its security group says; the port hides nothing")
        if not parameters.keep_data:
            acknowledge(self, "AwsSolutions-RDS10", "A database for trying out goes with its stack, unless keep_data")
        owner = rds.DatabaseSecret(self, "Owner", username=OWNER)
        self.target = make(parameters, network, rds.Credentials.from_secret(owner))
        self._acknowledge_retention()
        self.owner = self.target.secret
        assert self.owner is not None
        self.secrets = {
            OWNER: self.owner,
            user: rds.DatabaseSecret(self, "User", username=user, dbname=parameters.database_name),
        }

    def _acknowledge_retention(self) -> None:
        # logs:PutRetentionPolicy is for every log group: CDK has one function for the whole stack.
        # logs:DeleteRetentionPolicy is for every log group: CDK has one function for the whole stack.
        why = "CDK's own function, which says how long RDS's log groups are kept; it is one for the whole stack"
        basic = "service-role/AWSLambdaBasicExecutionRole"
        for child in Stack.of(self).node.children:
            if child.node.id.startswith("LogRetention"):
                acknowledge(child, "AwsSolutions-IAM5[Resource::*]", why)
                acknowledge(child, f"AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{basic}]", why)

    def _existing(self, parameters: Parameters) -> ProxyTarget:
        assert parameters.database_host is not None
        group = parameters.database_security_group
        return ProxyTarget.from_endpoints(
            parameters.database_host,
            port=parameters.database_port,
            secret=(
                secret_by(self, "Secret", parameters.database_secret, parameters.database_secret_key)
                if parameters.database_secret
                else None
            ),
            security_group=ec2.SecurityGroup.from_security_group_id(self, "Group", group) if group else None,
            resource_id=parameters.database_resource_id,
            max_connections=parameters.database_max_connections,
        )

    def _aurora(self, parameters: Parameters, network: Network, owner: rds.Credentials) -> ProxyTarget:
        cluster = rds.DatabaseCluster(
            self,
            "Cluster",
            engine=rds.DatabaseClusterEngine.aurora_postgres(version=rds.AuroraPostgresEngineVersion.VER_17_7),
            writer=rds.ClusterInstance.serverless_v2("Writer"),
            readers=[rds.ClusterInstance.serverless_v2("Reader", scale_with_writer=True)],
            serverless_v2_min_capacity=LEAST_ACU,
            serverless_v2_max_capacity=MOST_ACU,
            credentials=owner,
            default_database_name=parameters.database_name,
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            iam_authentication=True,
            storage_encrypted=True,
            deletion_protection=parameters.keep_data,
            backup=rds.BackupProps(retention=Duration.days(7)),
            cloudwatch_logs_exports=LOGGED,
            cloudwatch_logs_retention=LOGS_KEPT,
            removal_policy=_removal(parameters),
        )
        return ProxyTarget.from_cluster(cluster, max_connections=connections_of_serverless(LEAST_ACU, MOST_ACU))

    def _rds(self, parameters: Parameters, network: Network, owner: rds.Credentials) -> ProxyTarget:
        instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_7),
            instance_type=ec2.InstanceType.of(ec2.InstanceClass.T4G, ec2.InstanceSize.MICRO),
            credentials=owner,
            database_name=parameters.database_name,
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            iam_authentication=True,
            storage_encrypted=True,
            storage_type=rds.StorageType.GP3,
            deletion_protection=parameters.keep_data,
            backup_retention=Duration.days(7),
            cloudwatch_logs_exports=LOGGED,
            cloudwatch_logs_retention=LOGS_KEPT,
            removal_policy=_removal(parameters),
        )
        return ProxyTarget.from_instance(instance)


def _removal(parameters: Parameters) -> RemovalPolicy:
    return RemovalPolicy.SNAPSHOT if parameters.keep_data else RemovalPolicy.DESTROY
