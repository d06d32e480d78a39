"""The ECS service: how many tasks, where, and how they are replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from constructs import Construct

from tidegate_infra.errors import DeploymentError
from tidegate_infra.security_groups import SecurityGroups

FARGATE, SPOT = "FARGATE", "FARGATE_SPOT"


@dataclass(frozen=True)
class SpotMix:
    """Tasks beyond the least number may run on Fargate Spot, at about a third of the price.

    Fields: `weight`, how many of them for each one on demand. AWS ends a Spot task with a notice of two minutes, which
    is as long as the proxy may drain, so no transaction is lost; but where Spot runs out there are fewer tasks than
    wanted. The least number always runs on demand.
    """

    weight: int = 3


def check_tasks(min_tasks: int, max_tasks: int) -> None:
    """Raises: DeploymentError unless 1 ≤ min_tasks ≤ max_tasks."""
    if min_tasks < 1:
        raise DeploymentError(f"min_tasks: {min_tasks} must be at least 1; 2 keep the proxy up when one of them dies")
    if max_tasks < min_tasks:
        raise DeploymentError(f"max_tasks: {max_tasks} must not be below min_tasks, which is {min_tasks}")


def own_cluster(scope: Construct, vpc: ec2.IVpc) -> ecs.Cluster:
    """A cluster with Container Insights and Fargate's capacity providers, on which a service in it must depend."""
    cluster = ecs.Cluster(scope, "Cluster", vpc=vpc, container_insights_v2=ecs.ContainerInsights.ENABLED)
    # CDK's own switch makes these so late that no service can be told to wait for them.
    ecs.CfnClusterCapacityProviderAssociations(
        cluster,
        "Cluster",
        cluster=cluster.cluster_name,
        capacity_providers=[FARGATE, SPOT],
        default_capacity_provider_strategy=[],
    )
    return cluster


def make_service(
    scope: Construct,
    *,
    cluster: ecs.ICluster,
    task: ecs.FargateTaskDefinition,
    subnets: Sequence[ec2.ISubnet],
    groups: SecurityGroups,
    min_tasks: int,
    max_tasks: int,
    spot: SpotMix | None,
    load_balancer: bool,
    cloud_map: ecs.CloudMapOptions | None,
) -> ecs.FargateService:
    """The service.

    Parameters: `load_balancer`, whether its health checks count; `cloud_map`, where its tasks are registered instead.
    """
    strategies = None
    if spot is not None:
        strategies = [
            ecs.CapacityProviderStrategy(capacity_provider=FARGATE, base=min_tasks, weight=1),
            ecs.CapacityProviderStrategy(capacity_provider=SPOT, weight=spot.weight),
        ]
    return ecs.FargateService(
        scope,
        "Service",
        cluster=cluster,
        task_definition=task,
        # Where the number scales, a deployment must not reset it: then only scaling sets it.
        desired_count=min_tasks if min_tasks == max_tasks else None,
        vpc_subnets=ec2.SubnetSelection(subnets=list(subnets)),
        security_groups=list(groups.tasks),
        assign_public_ip=False,
        enable_execute_command=False,
        availability_zone_rebalancing=ecs.AvailabilityZoneRebalancing.ENABLED,
        circuit_breaker=ecs.DeploymentCircuitBreaker(enable=True, rollback=True),
        # A new task is ready before an old one stops accepting.
        min_healthy_percent=100,
        max_healthy_percent=200,
        health_check_grace_period=Duration.seconds(60) if load_balancer else None,
        capacity_provider_strategies=strategies,
        cloud_map_options=cloud_map,
        propagate_tags=ecs.PropagatedTagSource.SERVICE,
    )
