"""The database behind the proxy: an RDS instance, an Aurora cluster, or endpoints of whatever PostgreSQL there is."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager

from tidegate_infra.capacity import connections_of
from tidegate_infra.errors import DeploymentError

POSTGRESQL_PORT = 5432


@dataclass(frozen=True)
class ProxyTarget:
    """What the proxy has to know of its database. Made by `from_instance`, `from_cluster` and `from_endpoints`.

    Fields: `host` and `port` of the writer; `has_readers`, whether it has some to offer; `connections`, what must let
    the proxy in, None where nothing here decides on it; `resource_id`, RDS's own name for the database in
    `rds-db:connect`, None outside RDS; `secret`, of the database's own user, None if there is none; `max_connections`,
    what the engine accepts, None where it is not known before it runs; `address`, the identifier in texts.
    """

    host: str
    port: float
    has_readers: bool
    connections: ec2.Connections | None
    resource_id: str | None
    secret: secretsmanager.ISecret | None
    max_connections: int | None
    address: str

    @classmethod
    def from_instance(cls, instance: rds.IDatabaseInstance, *, max_connections: int | None = None) -> ProxyTarget:
        """An RDS instance for PostgreSQL.

        Parameters: `max_connections`, the parameter of the instance's own parameter group; by default what RDS derives
        from the instance's class.
        Raises: DeploymentError for another engine.
        """
        host, port = instance.db_instance_endpoint_address, instance.instance_endpoint.port
        return cls._of_rds(instance, host, port, instance.instance_resource_id, max_connections)

    @classmethod
    def from_cluster(cls, cluster: rds.IDatabaseCluster, *, max_connections: int | None = None) -> ProxyTarget:
        """An Aurora cluster for PostgreSQL, by its writer and its reader endpoint.

        Parameters: `max_connections`, the parameter of the cluster's own parameter group; by default what Aurora
        derives from the capacity. Raises: DeploymentError for another engine.
        """
        writer, resource_id = cluster.cluster_endpoint, cluster.cluster_resource_identifier
        return cls._of_rds(cluster, writer.hostname, writer.port, resource_id, max_connections, has_readers=True)

    @classmethod
    def _of_rds(
        cls,
        database: rds.IDatabaseInstance | rds.IDatabaseCluster,
        host: str,
        port: float,
        resource_id: str | None,
        max_connections: int | None,
        *,
        has_readers: bool = False,
    ) -> ProxyTarget:
        _need_postgresql(database.engine)
        return cls(
            host=host,
            port=port,
            has_readers=has_readers,
            connections=database.connections,
            resource_id=resource_id,
            secret=_secret_of(database),
            max_connections=max_connections or connections_of(database),
            address=database.node.path,
        )

    @classmethod
    def from_endpoints(
        cls,
        host: str,
        *,
        port: int = POSTGRESQL_PORT,
        secret: secretsmanager.ISecret | None = None,
        security_group: ec2.ISecurityGroup | None = None,
        resource_id: str | None = None,
        max_connections: int | None = None,
    ) -> ProxyTarget:
        """Any PostgreSQL that can be reached from the proxy's subnets.

        Parameters: `host`, which follows the writer; `secret`, in the shape that RDS gives it;
        `security_group` of the database: it gets a rule that lets the proxy in, and without it the proxy may reach
        `port` anywhere; `resource_id`, such as `db-ABCDEFGHIJKL` or `cluster-ABCDEFGHIJKL`, for IAM towards RDS;
        `max_connections` of the engine, if it is known.
        Raises: DeploymentError for something else than a host name.
        """
        if not host or any(character in host for character in "/:@ "):
            raise DeploymentError(
                f"proxy_target: {host!r} must be a host name without scheme, port or user, "
                'for example "shop.cluster-c0ffee.eu-west-1.rds.amazonaws.com"'
            )
        groups = [] if security_group is None else [security_group]
        connections = ec2.Connections(security_groups=groups, default_port=ec2.Port.tcp(port)) if groups else None
        return cls(host, port, False, connections, resource_id, secret, max_connections, host)


def _need_postgresql(engine: rds.IEngine | None) -> None:
    family = None if engine is None else engine.engine_family
    if family not in (None, "POSTGRESQL"):
        raise DeploymentError(
            f"proxy_target: the engine is {family}, but Tidegate speaks PostgreSQL only: give a PostgreSQL instance or "
            "cluster"
        )


def _secret_of(database: object) -> secretsmanager.ISecret | None:
    # Imported instances and clusters have no such attribute.
    return getattr(database, "secret", None)
