"""The proxy as a construct, in the shape of `aws_cdk.aws_rds.DatabaseProxy`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsii
from aws_cdk import Duration, Names, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra import endpoint, mock_secret, roles, settings_environment
from tidegate_infra.checks import Limits, check_limits
from tidegate_infra.endpoint import EndpointType
from tidegate_infra.errors import DeploymentError
from tidegate_infra.grants import ConnectRules, SomebodyMayConnect, principal_arn
from tidegate_infra.image import proxy_image
from tidegate_infra.load_balancer import Balancer
from tidegate_infra.metrics import ProxyMetrics
from tidegate_infra.proxy_logs import encrypted_log_group
from tidegate_infra.proxy_settings import Behaviour, Identity, check_own, proxy_settings
from tidegate_infra.proxy_target import ProxyTarget
from tidegate_infra.scaling import Scaling, add_scaling
from tidegate_infra.secret_users import by_user
from tidegate_infra.security_groups import LISTEN_PORT, make_security_groups
from tidegate_infra.service import SpotMix, check_tasks, make_service, own_cluster
from tidegate_infra.subnets import private_subnets
from tidegate_infra.task import ALIVE, CONTAINER, READY, STOP_TIMEOUT, make_task, need_architecture, processes


@jsii.implements(ec2.IConnectable)
class TidegateProxy(Construct):
    """A Tidegate proxy on ECS Fargate, in front of an RDS or Aurora PostgreSQL.

    Attributes: `endpoint`, the host name that clients connect to, on port 5432; `connections`, for security groups;
    `clients`, a security group for those that have none of their own; `db_proxy_name`; `metrics`; `service`, `cluster`,
    `task`, `architecture`, `log_group`, `balancer` (None without a load balancer), `subnets`, `vpc` and `role`, for
    whoever wants to go further.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        proxy_target: ProxyTarget,
        vpc: ec2.IVpc,
        borrow_timeout: Duration | None = None,
        db_proxy_name: str | None = None,
        debug_logging: bool = False,
        default_auth_scheme: rds.DefaultAuthScheme = rds.DefaultAuthScheme.NONE,
        iam_auth: bool = False,
        idle_client_timeout: Duration | None = None,
        init_query: str | None = None,
        max_connections_percent: int = 90,
        max_idle_connections_percent: int | None = None,
        require_tls: bool = True,
        role: iam.IRole | None = None,
        secrets: Sequence[secretsmanager.ISecret] | Mapping[str, secretsmanager.ISecret] | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] = (),
        vpc_subnets: ec2.SubnetSelection | None = None,
        certificate: secretsmanager.ISecret | None = None,
        endpoint_type: EndpointType = EndpointType.NLB,
        domain_name: str | None = None,
        hosted_zone: route53.IHostedZone | None = None,
        databases: Sequence[str] = (),
        pool_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
        min_tasks: int = 2,
        max_tasks: int = 4,
        scaling: Scaling | None = None,
        spot: SpotMix | None = None,
        architecture: str = "arm64",
        cpu: int = 1024,
        memory_limit_mib: int = 2048,
        image: ecs.ContainerImage | None = None,
        cluster: ecs.ICluster | None = None,
        log_retention: logs.RetentionDays = logs.RetentionDays.ONE_MONTH,
    ) -> None:
        """The parameters up to `vpc_subnets` are `DatabaseProxy`'s, with its meaning and, where none is said here, its
        default.

        Parameters: `proxy_target`, the database; `vpc`, where the proxy runs; `borrow_timeout`, 2 minutes;
        `db_proxy_name`, the dimension of metrics and what IAM tokens are bound to, by default made of the construct's
        path; `debug_logging`, never with a statement's values; `default_auth_scheme`, IAM_AUTH to log in to the
        database by IAM, as the users that `grant_connect` names, so that no password is needed; `iam_auth`, clients log
        in with their AWS credentials; `idle_client_timeout`, 30 minutes; `init_query`, SQL for each new server
        connection; `max_connections_percent`, of the database's connections, for all tasks together;
        `max_idle_connections_percent`, how many of them may stay open unused; `require_tls`; `role`, of the tasks;
        `secrets`, one per database user, as a list or by user, by default the target's own; `security_groups`, further
        ones for the tasks; `vpc_subnets`, private ones in two zones.

        `certificate`, the secret with certificate and key (needed with `require_tls`: `python -m
        tidegate_infra.certificate` makes one); `endpoint_type`; `domain_name`, such as `shop.tidegate.internal`, and
        `hosted_zone`, an existing zone that it is in, by default a private one for this name alone; `databases`, by
        name, each with a second name NAME_ro for the readers of a cluster, by default whatever name clients ask for;
        `pool_size`, connections per database and user in each process, by default 20; `settings`, any other of the
        proxy's settings by name, dotted within tables (a secret is made for `scram_mock_secret` unless it is among
        them); `min_tasks`, `max_tasks`, `scaling` and `spot`; `architecture`, arm64 or x86_64; `cpu`, in 1/1024 vCPU, a
        process for each whole vCPU, and `memory_limit_mib` of a task; `image`, by default built from
        `proxy/Dockerfile`; `cluster`, by default one of its own: yours needs Container Insights, which the alarm on
        missing tasks reads, and for `spot` Fargate's capacity providers; `log_retention`.

        Raises: DeploymentError for what cannot work; its text says what to change.
        """
        super().__init__(scope, construct_id)
        own = dict(settings or {})
        check_own(own)
        check_tasks(min_tasks, max_tasks)
        self.architecture = need_architecture(architecture)
        self._by_iam = default_auth_scheme is rds.DefaultAuthScheme.IAM_AUTH
        self._iam_auth = iam_auth
        self._rules = ConnectRules()
        if iam_auth:
            self.node.add_validation(SomebodyMayConnect(self._rules))
        self._target = proxy_target
        self.vpc = vpc
        self.db_proxy_name = _name(self, db_proxy_name)
        self.secrets = self._secrets(secrets)
        self._check_identity(certificate, require_tls)
        limits = Limits(max_connections_percent, max_idle_connections_percent, pool_size)
        check_limits(limits, proxy_target)
        selected = private_subnets(vpc, vpc_subnets)
        self.subnets = selected.subnets
        zone_name = None if hosted_zone is None or Token.is_unresolved(hosted_zone.zone_name) else hosted_zone.zone_name
        endpoint.check_name(
            domain_name,
            endpoint_type=endpoint_type,
            zone_name=zone_name,
            with_zone=hosted_zone is not None,
            setting="hosted_zone",
        )
        workers = processes(cpu)
        with_balancer = endpoint_type is EndpointType.NLB
        groups = make_security_groups(
            self, vpc=vpc, target=proxy_target, given=security_groups, load_balancer=with_balancer, workers=workers
        )
        self.clients = groups.clients
        self._connections = ec2.Connections(security_groups=[groups.front], default_port=ec2.Port.tcp(LISTEN_PORT))
        self.log_group = encrypted_log_group(self, f"/tidegate/{self.db_proxy_name}", retention=log_retention)
        self.role = roles.task_role(self, role)
        read = [*self.secrets.values(), *([certificate] if certificate else [])]
        for secret in read:
            roles.allow_secret(self.role, secret)
        if self._by_iam:
            assert proxy_target.resource_id is not None
            roles.allow_database_users(
                self, self.role, resource_id=proxy_target.resource_id, users=lambda: self._rules.db_users
            )
        idle = idle_client_timeout or Duration.minutes(30)
        environment = proxy_settings(
            self,
            name=self.db_proxy_name,
            target=proxy_target,
            databases=databases,
            limits=limits,
            identity=Identity(self.secrets, self._by_iam, self._rules if iam_auth else None, certificate, require_tls),
            behaviour=Behaviour(borrow_timeout or Duration.seconds(120), idle, init_query, debug_logging),
            endpoint_type=endpoint_type,
            workers=workers,
        )
        self.task = make_task(
            self,
            image=image or proxy_image(self, architecture=architecture),
            architecture=architecture,
            cpu=cpu,
            memory_limit_mib=memory_limit_mib,
            task_role=self.role,
            execution_role=roles.execution_role(self, self.log_group),
            log_group=self.log_group,
            environment=settings_environment.variables(environment | own),
            secrets={} if own.get(mock_secret.SETTING) is not None else mock_secret.variable(self, self.db_proxy_name),
            health_path=ALIVE if with_balancer else READY,
        )
        self.cluster = cluster or own_cluster(self, vpc)
        name = domain_name or (None if with_balancer else f"{self.db_proxy_name}.tidegate.internal")
        self.service = make_service(
            self,
            cluster=self.cluster,
            task=self.task,
            subnets=self.subnets,
            groups=groups,
            min_tasks=min_tasks,
            max_tasks=max_tasks,
            spot=spot,
            load_balancer=with_balancer,
            cloud_map=None if with_balancer or name is None else endpoint.cloud_map(self, vpc=vpc, domain_name=name),
        )
        if cluster is None:
            # Its capacity providers must be there before the service, and go after it.
            self.service.node.add_dependency(self.cluster)
        self.min_tasks = min_tasks
        self.balancer: Balancer | None = None
        self.endpoint = name or ""
        """The host name that clients connect to."""
        if with_balancer:
            self.balancer = Balancer(
                self,
                vpc=vpc,
                subnets=self.subnets,
                group=groups.front,
                idle_client_timeout=idle,
                stop_timeout=STOP_TIMEOUT,
            )
            self.balancer.attach(self.service, CONTAINER)
            self.endpoint = name or self.balancer.load_balancer.load_balancer_dns_name
            if name is not None:
                endpoint.alias(
                    self, vpc=vpc, domain_name=name, zone=hosted_zone, load_balancer=self.balancer.load_balancer
                )
        self.metrics = ProxyMetrics(self.db_proxy_name)
        if max_tasks > min_tasks:
            add_scaling(
                self.service,
                min_tasks=min_tasks,
                max_tasks=max_tasks,
                scaling=scaling or Scaling(),
                clients_per_process=self.metrics.metric("ClientConnections", "Average"),
                processes=workers,
            )

    @property
    def connections(self) -> ec2.Connections:
        """Who may connect: what clients' security groups are told."""
        return self._connections

    @property
    def iam_auth(self) -> bool:
        """Whether clients log in with their AWS credentials."""
        return self._iam_auth

    def grant_connect(self, grantee: iam.IGrantable, db_user: str | None = None) -> iam.Grant:
        """Let a role, a user or a function log in through the proxy as `db_user`.

        The rule is the proxy's own: the principal needs no permission in AWS, since its token is a signed request that
        anyone may make. A role of another stack is given a name, so that the two stacks do not need each other.

        Raises: DeploymentError without `iam_auth`, for a missing user, and for a principal without an ARN.
        """
        if not self._iam_auth:
            raise DeploymentError("grant_connect: needs iam_auth=True, which lets clients log in with AWS credentials")
        if not db_user:
            raise DeploymentError('grant_connect: name the database user, for example db_user="app"')
        self._rules.add(principal_arn(self, grantee), db_user)
        return iam.Grant.drop(grantee, "the proxy's own rules allow it")

    def _secrets(
        self, given: Sequence[secretsmanager.ISecret] | Mapping[str, secretsmanager.ISecret] | None
    ) -> dict[str, secretsmanager.ISecret]:
        if given is not None:
            return by_user(given)
        return by_user([self._target.secret]) if self._target.secret is not None and not self._by_iam else {}

    def _check_identity(self, certificate: secretsmanager.ISecret | None, require_tls: bool) -> None:
        by_iam = self._by_iam
        if not self.secrets and not by_iam:
            raise DeploymentError(
                f"secrets: {self._target.address} has no secret and IAM is off, so the proxy could not log in to it: "
                "give secrets=[...], or default_auth_scheme=rds.DefaultAuthScheme.IAM_AUTH"
            )
        if by_iam and self._target.resource_id is None:
            raise DeploymentError(
                f"default_auth_scheme: IAM_AUTH needs the RDS resource id of {self._target.address}: give it to "
                'ProxyTarget.from_endpoints(resource_id="cluster-ABCDEFGHIJKL"), or give secrets'
            )
        if by_iam and not self._iam_auth:
            raise DeploymentError(
                "default_auth_scheme: IAM_AUTH needs iam_auth=True: without passwords, clients can log in by IAM only"
            )
        if certificate is None and (require_tls or self._iam_auth):
            why = "iam_auth" if self._iam_auth and not require_tls else "require_tls"
            raise DeploymentError(
                f"certificate: {why} needs the secret with the proxy's certificate and key; make one with "
                "`python -m tidegate_infra.certificate --domain NAME`, and give it as certificate="
            )


def _name(scope: Construct, given: str | None) -> str:
    """The proxy's name, by RDS Proxy's rule. Raises: DeploymentError."""
    if given is None:
        made = Names.unique_resource_name(scope, max_length=60, separator="-").lower()
        return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9-]", "-", made)).strip("-")
    if not re.fullmatch(r"[A-Za-z](?:-?[A-Za-z0-9])*", given) or len(given) > 60:
        raise DeploymentError(
            f"db_proxy_name: {given!r} must be at most 60 letters, digits and single hyphens, and begin with a letter, "
            'for example "shop-proxy"'
        )
    return given
