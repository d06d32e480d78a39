"""The proxy, its alarms and its dashboard."""

from __future__ import annotations

from aws_cdk import CfnOutput
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_route53 as route53
from constructs import Construct

from tidegate_infra.alarms import TidegateAlarms
from tidegate_infra.app.database import Database, secret_by
from tidegate_infra.app.network import Network
from tidegate_infra.app.parameters import Parameters
from tidegate_infra.dashboard import TidegateDashboard
from tidegate_infra.endpoint import EndpointType, split_name
from tidegate_infra.proxy import TidegateProxy
from tidegate_infra.security_groups import LISTEN_PORT
from tidegate_infra.service import SpotMix

RETENTION = {
    1: logs.RetentionDays.ONE_DAY,
    3: logs.RetentionDays.THREE_DAYS,
    5: logs.RetentionDays.FIVE_DAYS,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
    180: logs.RetentionDays.SIX_MONTHS,
    365: logs.RetentionDays.ONE_YEAR,
}


class Serving(Construct):
    """Attributes: `proxy`, `alarms`."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        parameters: Parameters,
        network: Network,
        database: Database,
    ) -> None:
        super().__init__(scope, construct_id)
        certificate = parameters.certificate_secret
        by_iam = not database.secrets
        self.proxy = TidegateProxy(
            self,
            "Proxy",
            proxy_target=database.target,
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            db_proxy_name=parameters.name,
            databases=[parameters.database_name],
            secrets=database.secrets,
            default_auth_scheme=rds.DefaultAuthScheme.IAM_AUTH if by_iam else rds.DefaultAuthScheme.NONE,
            # A token is a password, so without TLS there are only passwords.
            iam_auth=parameters.require_tls,
            require_tls=parameters.require_tls,
            certificate=(
                secret_by(self, "Certificate", certificate, parameters.certificate_secret_key) if certificate else None
            ),
            endpoint_type=EndpointType(parameters.endpoint_type),
            domain_name=parameters.domain_name,
            hosted_zone=self._zone(parameters),
            architecture=parameters.architecture,
            cpu=parameters.cpu,
            memory_limit_mib=parameters.memory,
            min_tasks=parameters.min_tasks,
            max_tasks=parameters.max_tasks,
            spot=SpotMix() if parameters.spot else None,
            max_connections_percent=parameters.max_connections_percent,
            pool_size=parameters.pool_size,
            log_retention=RETENTION[parameters.log_retention_days],
            settings={"admin_users": parameters.admin_users or None, "stats_users": parameters.stats_users or None},
        )
        if parameters.require_tls:
            for arn in parameters.client_roles:
                self.proxy.grant_connect(iam.ArnPrincipal(arn), parameters.database_user)
        self.alarms = TidegateAlarms(
            self,
            "Alarms",
            proxy=self.proxy,
            email=parameters.alarm_email,
            composite=parameters.composite_alarm,
            runbook_url=parameters.runbook_url,
        )
        TidegateDashboard(self, "Life", proxy=self.proxy, alarms=list(self.alarms.alarms.values()))
        CfnOutput(self, "Endpoint", value=f"{self.proxy.endpoint}:{LISTEN_PORT}", description="Where clients connect")
        CfnOutput(self, "LogGroup", value=self.proxy.log_group.log_group_name)

    def _zone(self, parameters: Parameters) -> route53.IHostedZone | None:
        if parameters.hosted_zone_id is None or parameters.domain_name is None:
            return None
        return route53.HostedZone.from_hosted_zone_attributes(
            self,
            "Zone",
            hosted_zone_id=parameters.hosted_zone_id,
            zone_name=parameters.hosted_zone_name or split_name(parameters.domain_name)[1],
        )
