"""Where clients connect: a load balancer's name, a name of one's own for it, or Cloud Map's for the tasks
themselves."""

from __future__ import annotations

from enum import Enum

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from aws_cdk import aws_servicediscovery as servicediscovery
from constructs import Construct

from tidegate_infra.errors import DeploymentError

DNS_TTL = 10
"""Seconds for which clients may keep a task's address."""


class EndpointType(Enum):
    """How clients reach the tasks.

    `NLB`: an internal Network Load Balancer: it ejects a sick task within seconds and spreads connections evenly.
    `DNS`: a name that stands for the tasks' addresses, by Cloud Map: costs next to nothing; clients may keep an address
    for ten seconds after its task is gone, and how evenly they spread is up to them.
    """

    NLB = "nlb"
    DNS = "dns"


def split_name(domain_name: str) -> tuple[str, str]:
    """A host name as its first label and the rest. Raises: DeploymentError."""
    label, _, rest = domain_name.partition(".")
    if not label or not rest or any(character in domain_name for character in "/:@* "):
        raise DeploymentError(
            f'domain_name: {domain_name!r} must be a host name within a domain, for example "shop.tidegate.internal"'
        )
    return label, rest


def cloud_map(scope: Construct, *, vpc: ec2.IVpc, domain_name: str) -> ecs.CloudMapOptions:
    """A private namespace for `domain_name`, under which ECS registers every task."""
    label, rest = split_name(domain_name)
    namespace = servicediscovery.PrivateDnsNamespace(scope, "Namespace", name=rest, vpc=vpc)
    return ecs.CloudMapOptions(
        name=label,
        cloud_map_namespace=namespace,
        dns_record_type=servicediscovery.DnsRecordType.A,
        dns_ttl=Duration.seconds(DNS_TTL),
    )


def alias(
    scope: Construct,
    *,
    vpc: ec2.IVpc,
    domain_name: str,
    zone: route53.IHostedZone | None,
    load_balancer: elbv2.INetworkLoadBalancer,
) -> None:
    """A name of one's own for the load balancer: a certificate can be made for it beforehand.

    Parameters: `zone`, which `domain_name` is in; by default a private one is made for the VPC.
    """
    label, rest = split_name(domain_name)
    if zone is not None and not domain_name.endswith("." + zone.zone_name):
        raise DeploymentError(
            f"domain_name: {domain_name} is not in the hosted zone {zone.zone_name}: correct one of them"
        )
    route53.ARecord(
        scope,
        "Name",
        zone=zone or route53.PrivateHostedZone(scope, "Zone", zone_name=rest, vpc=vpc),
        record_name=label if zone is None else domain_name + ".",
        target=route53.RecordTarget.from_alias(targets.LoadBalancerTarget(load_balancer)),
    )
