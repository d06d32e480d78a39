"""The VPC: a new one, or an existing one that is only referred to."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.app.parameters import Parameters

SERVICES = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Sts": ec2.InterfaceVpcEndpointAwsService.STS,
    "Lambda": ec2.InterfaceVpcEndpointAwsService.LAMBDA_,
}
"""What tasks and functions call, for a VPC without a way out."""


class Network(Construct):
    """Attributes: `vpc`; `subnets`, the private ones for proxy, functions and database, None for those that an existing
    VPC has."""

    def __init__(self, scope: Construct, construct_id: str, parameters: Parameters) -> None:
        super().__init__(scope, construct_id)
        self.vpc: ec2.IVpc = self._existing(parameters) if parameters.vpc_id else self._new(parameters)
        self.subnets: ec2.SubnetSelection | None = None
        if parameters.vpc_id is None:
            isolated = parameters.nat_gateways == 0
            kind = ec2.SubnetType.PRIVATE_ISOLATED if isolated else ec2.SubnetType.PRIVATE_WITH_EGRESS
            self.subnets = ec2.SubnetSelection(subnet_type=kind)

    def _existing(self, parameters: Parameters) -> ec2.IVpc:
        if not parameters.private_subnet_ids:
            return ec2.Vpc.from_lookup(self, "Vpc", vpc_id=parameters.vpc_id)
        assert parameters.vpc_id is not None
        return ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=parameters.vpc_id,
            availability_zones=list(parameters.availability_zones),
            private_subnet_ids=list(parameters.private_subnet_ids),
        )

    def _new(self, parameters: Parameters) -> ec2.Vpc:
        with_way_out = parameters.nat_gateways > 0
        private = ec2.SubnetConfiguration(
            name="private",
            subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS if with_way_out else ec2.SubnetType.PRIVATE_ISOLATED,
            cidr_mask=20,
        )
        public = ec2.SubnetConfiguration(
            name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24, map_public_ip_on_launch=False
        )
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(parameters.vpc_cidr),
            max_azs=2,
            nat_gateways=parameters.nat_gateways,
            subnet_configuration=[public, private] if with_way_out else [private],
            restrict_default_security_group=False,
        )
        group = logs.LogGroup(
            self, "FlowLogs", retention=logs.RetentionDays.ONE_WEEK, removal_policy=RemovalPolicy.DESTROY
        )
        vpc.add_flow_log(
            "Flow",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )
        if not with_way_out:
            vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
            for name, service in SERVICES.items():
                endpoint = vpc.add_interface_endpoint(name, service=service)
                acknowledge(
                    endpoint, "AwsSolutions-EC23", "Open to the VPC only, whose addresses the rule cannot read here"
                )
        return vpc
