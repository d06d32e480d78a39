"""Which subnets the proxy may run in: private ones, in at least two availability zones."""

from __future__ import annotations

import re

from aws_cdk import Token
from aws_cdk import aws_ec2 as ec2
from jsii.errors import JSIIError

from tidegate_infra.errors import DeploymentError

LEAST = 2
"""Subnets, and availability zones: with one, the loss of a zone is the loss of the database for every function."""


def private_subnets(vpc: ec2.IVpc, wanted: ec2.SubnetSelection | None) -> ec2.SelectedSubnets:
    """The subnets for the proxy's tasks and its load balancer.

    Parameters: `vpc`; `wanted`, by default the private subnets, those with a way out first.
    Raises: DeploymentError for fewer than two subnets or zones, for public subnets, and for a selection that the VPC
    has nothing for.
    """
    selection = wanted or _default(vpc)
    public = {subnet.node.path for subnet in vpc.public_subnets}
    try:
        selected = vpc.select_subnets(
            availability_zones=selection.availability_zones,
            one_per_az=selection.one_per_az,
            subnet_filters=selection.subnet_filters,
            subnet_group_name=selection.subnet_group_name,
            subnets=selection.subnets,
            subnet_type=selection.subnet_type,
        )
    except (RuntimeError, JSIIError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "CDK selects none")
        # It begins with what CDK calls the error.
        reason = re.sub(r"^\w+: ", "", reason).rstrip(".")
        raise DeploymentError(
            f"vpc_subnets: {reason}: select private subnets that the VPC has, or leave vpc_subnets out"
        ) from None
    if exposed := [subnet.node.path for subnet in selected.subnets if subnet.node.path in public]:
        raise DeploymentError(
            f"vpc_subnets: {exposed[0]} is a public subnet: the proxy belongs into private ones; "
            "select them with vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)"
        )
    found = len(selected.subnets)
    if found < LEAST:
        raise DeploymentError(
            f"vpc_subnets: {found} private subnet{'' if found == 1 else 's'} selected, but the proxy needs {LEAST} in "
            f"different availability zones: add subnets to the VPC, or select others with vpc_subnets"
        )
    zones = {zone for zone in selected.availability_zones if not Token.is_unresolved(zone)}
    unknown = any(Token.is_unresolved(zone) for zone in selected.availability_zones)
    if len(zones) < LEAST and not unknown:
        raise DeploymentError(
            f"vpc_subnets: all {found} subnets are in {', '.join(sorted(zones))}, but the proxy needs "
            f"{LEAST} availability zones: select subnets in another one too"
        )
    return selected


def _default(vpc: ec2.IVpc) -> ec2.SubnetSelection:
    if vpc.private_subnets:
        return ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    if vpc.isolated_subnets:
        return ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
    raise DeploymentError(
        "vpc: has no private subnet: the proxy needs two, in different availability zones; "
        "add them, or give another VPC"
    )
