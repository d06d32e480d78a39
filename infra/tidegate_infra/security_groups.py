"""Exactly client → load balancer → proxy → database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from tidegate_infra.proxy_target import ProxyTarget

LISTEN_PORT = 5432
"""Where clients connect: PostgreSQL's own port, as with RDS Proxy."""

FLEET_PORT = 5433
"""Where a task takes cancel requests that other tasks got for its clients; its second process has the next port."""

HEALTH_PORT = 8080
"""HTTP: /healthz and /readyz."""

HTTPS = 443


@dataclass(frozen=True)
class SecurityGroups:
    """`clients`: for functions that have none of their own; `front`: what clients connect to, the load balancer's, or
    the tasks' where there is none; `tasks`: the proxy's own, first its own group, then those that were given."""

    clients: ec2.SecurityGroup
    front: ec2.SecurityGroup
    tasks: Sequence[ec2.ISecurityGroup]


def make_security_groups(
    scope: Construct,
    *,
    vpc: ec2.IVpc,
    target: ProxyTarget,
    given: Sequence[ec2.ISecurityGroup],
    load_balancer: bool,
    workers: int,
) -> SecurityGroups:
    """The groups and their rules.

    Parameters: `scope`, in which they are made; `given`, further groups for the tasks; `load_balancer`, whether one
    stands between clients and tasks; `workers`, processes of a task.
    """

    def group(name: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(scope, name, vpc=vpc, description=description, allow_all_outbound=False)

    clients = group("Clients", "Clients of the Tidegate proxy")
    tasks = group("Tasks", "Tasks of the Tidegate proxy")
    front = group("Balancer", "Load balancer of the Tidegate proxy") if load_balancer else tasks
    port = ec2.Port.tcp(LISTEN_PORT)
    clients.connections.allow_to(front, port, "PostgreSQL through the proxy")
    # Functions call AWS's services too, Secrets Manager and STS among them.
    clients.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "AWS services")
    if load_balancer:
        front.connections.allow_to(tasks, port, "PostgreSQL")
        front.connections.allow_to(tasks, ec2.Port.tcp(HEALTH_PORT), "Health checks")
    # A cancel request that reaches another task than its query is passed on to the one that owns it.
    fleet = ec2.Port.tcp(FLEET_PORT) if workers == 1 else ec2.Port.tcp_range(FLEET_PORT, FLEET_PORT + workers - 1)
    tasks.connections.allow_internally(fleet, "Cancel requests between tasks")
    tasks.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "AWS services: secrets, STS, logs, the image")
    database_port = _database_port(target)
    if target.connections is None:
        tasks.add_egress_rule(ec2.Peer.any_ipv4(), database_port, "The database, of an unknown group")
    else:
        tasks.connections.allow_to(target.connections, database_port, "The database")
    return SecurityGroups(clients, front, (tasks, *given))


def _database_port(target: ProxyTarget) -> ec2.Port:
    if target.connections is not None and target.connections.default_port is not None:
        return target.connections.default_port
    return ec2.Port.tcp(int(target.port))
