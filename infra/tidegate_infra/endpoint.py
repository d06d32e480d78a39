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


def check_name(
    domain_name: str | None, *, endpoint_type: EndpointType, zone_name: str | None, with_zone: bool, setting: str
) -> None:
    """Refuse a name that cannot be made, or would hide others.

    Parameters: `domain_name`, None for none; `zone_name`, of an existing zone, None where it is not known before the
    deployment; `with_zone`, whether one is given; `setting`, what it is called where it is given.
    Raises: DeploymentError.
    """
    if with_zone and endpoint_type is EndpointType.DNS:
        raise DeploymentError(
            f"{setting}: is for endpoint_type = nlb; with dns, Cloud Map makes a zone of its own: leave it out"
        )
    if domain_name is None:
        if with_zone:
            raise DeploymentError(f"{setting}: needs domain_name, the name that is put into it")
        return
    _, rest = split_name(domain_name)
    if endpoint_type is EndpointType.DNS and "." not in rest:
        raise DeploymentError(
            f'domain_name: with endpoint_type = dns, Cloud Map makes a private zone for "{rest}", which would hide '
            f'every other name that ends so in the VPC: use a longer name, for example "proxy.{domain_name}"'
        )
    if zone_name is not None and not f".{domain_name}".endswith(f".{zone_name.rstrip('.')}"):
        raise DeploymentError(f"domain_name: {domain_name} is not in the hosted zone {zone_name}: correct one of them")


def split_name(domain_name: str) -> tuple[str, str]:
    """A host name as its first label and the rest. Raises: DeploymentError."""
    label, _, rest = domain_name.partition(".")
    if not label or not rest or any(character in domain_name for character in "/:@* "):
        raise DeploymentError(
            f'domain_name: {domain_name!r} must be a host name within a domain, for example "shop.tidegate.internal"'
        )
    return label, rest


def cloud_map(scope: Construct, *, vpc: ec2.IVpc, domain_name: str) -> ecs.CloudMapOptions:
    """A private namespace, under which ECS registers every task as `domain_name`.

    A namespace is a private zone for all that follows the name's first label, and Cloud Map knows no smaller one: no
    other name of that domain is found in the VPC.
    """
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

    Parameters: `zone`, which `domain_name` is in; by default a private one is made for the VPC, for this name alone: in
    the VPC a private zone answers for all of its domain, and what it does not have is not found.
    """
    route53.ARecord(
        scope,
        "Name",
        zone=zone or route53.PrivateHostedZone(scope, "Zone", zone_name=domain_name, vpc=vpc),
        record_name=domain_name + ".",
        target=route53.RecordTarget.from_alias(targets.LoadBalancerTarget(load_balancer)),
    )
