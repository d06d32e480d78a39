"""The endpoint as an internal Network Load Balancer."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.security_groups import HEALTH_PORT, LISTEN_PORT

DEFAULT_IDLE = 350
"""Seconds after which a Network Load Balancer forgets an idle connection unless told otherwise; the client learns it
only by its next packet, which is reset."""

MOST_IDLE = 6_000
"""Seconds, the most that can be set."""

SLACK = 60
"""Seconds that the balancer waits longer than the proxy, so that it is the proxy that ends an idle connection,
politely."""

INTERVAL, TIMEOUT, FAILURES = 5, 4, 2
"""Health checks: seconds, seconds, failures in a row. A task that no longer answers is out after at most
5 + 2 * 5 = 15 seconds."""


class Balancer:
    """The balancer, its listener and the group of tasks."""

    def __init__(
        self,
        scope: Construct,
        *,
        vpc: ec2.IVpc,
        subnets: Sequence[ec2.ISubnet],
        group: ec2.ISecurityGroup,
        idle_client_timeout: Duration,
        stop_timeout: Duration,
    ) -> None:
        self.load_balancer = elbv2.NetworkLoadBalancer(
            scope,
            "LoadBalancer",
            vpc=vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=list(subnets)),
            security_groups=[group],
            internet_facing=False,
            # A zone's node passes connections to tasks in any zone: with two tasks, neither gets all of them.
            cross_zone_enabled=True,
        )
        acknowledge(
            self.load_balancer, "AwsSolutions-ELB2", "A Network Load Balancer logs TLS listeners only; this one is TCP"
        )
        self.target_group = elbv2.NetworkTargetGroup(
            scope,
            "Targets",
            vpc=vpc,
            port=LISTEN_PORT,
            protocol=elbv2.Protocol.TCP,
            target_type=elbv2.TargetType.IP,
            # Logs and limits per source need the client's own address.
            preserve_client_ip=True,
            # A task that leaves gets no new clients for as long as its transactions may take. Its connections stay up:
            # it closes each one itself, between two transactions.
            deregistration_delay=stop_timeout,
            connection_termination=False,
            # ECS replaces tasks that fail this. /readyz waits for a first login and then stays, whatever the database
            # does: an outage costs no task, and no client that waits for its end.
            health_check=elbv2.HealthCheck(
                protocol=elbv2.Protocol.HTTP,
                port=str(HEALTH_PORT),
                path="/readyz",
                healthy_http_codes="200",
                interval=Duration.seconds(INTERVAL),
                timeout=Duration.seconds(TIMEOUT),
                healthy_threshold_count=2,
                unhealthy_threshold_count=FAILURES,
            ),
        )
        # The same goes for a task that is not ready: by default the balancer would reset all its clients.
        self.target_group.set_attribute("target_health_state.unhealthy.connection_termination.enabled", "false")
        idle = idle_client_timeout.to_seconds() + SLACK
        self.listener = self.load_balancer.add_listener(
            "Listener",
            port=LISTEN_PORT,
            protocol=elbv2.Protocol.TCP,
            tcp_idle_timeout=Duration.seconds(min(max(idle, DEFAULT_IDLE + SLACK), MOST_IDLE)),
            default_target_groups=[self.target_group],
        )

    def attach(self, service: ecs.FargateService, container: str) -> None:
        """Send connections to the service's tasks."""
        self.target_group.add_target(service.load_balancer_target(container_name=container, container_port=LISTEN_PORT))
        # Tasks must not count as failed while nothing sends them health checks yet.
        service.node.add_dependency(self.listener)
