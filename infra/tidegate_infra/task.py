"""The task definition: one container, with as little around it as it needs."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Duration
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.errors import DeploymentError
from tidegate_infra.security_groups import HEALTH_PORT, LISTEN_PORT

CONTAINER = "proxy"
STOP_TIMEOUT = Duration.seconds(120)
"""The most that Fargate gives a task between SIGTERM and SIGKILL; the proxy drains in 115 seconds of it."""

OPEN_FILES = 65_536
"""A client takes one, a server connection another."""

ARCHITECTURES = {"arm64": ecs.CpuArchitecture.ARM64, "x86_64": ecs.CpuArchitecture.X86_64}

HEALTHCHECK = ("CMD", "/opt/tidegate/bin/python", "-m", "tidegate_proxy.healthcheck")

ALIVE, READY = "/healthz", "/readyz"
"""What the container's check asks for. ECS replaces a container that fails it. Where a load balancer asks whether tasks
are ready, this is about the process alone; elsewhere it is the only one to tell ECS that a new task cannot log in to
the database, so that a deployment is rolled back. Neither fails for a database that was there and has gone away."""


def need_architecture(architecture: str) -> str:
    """Pass on arm64 or x86_64. Raises: DeploymentError."""
    if architecture not in ARCHITECTURES:
        raise DeploymentError(f"architecture: {architecture!r} must be one of {', '.join(ARCHITECTURES)}")
    return architecture


def processes(cpu: int) -> int:
    """How many processes a task needs to use its `cpu`, in units of 1/1024 vCPU: each can use one vCPU."""
    return max(1, cpu // 1024)


def make_task(
    scope: Construct,
    *,
    image: ecs.ContainerImage,
    architecture: str,
    cpu: int,
    memory_limit_mib: int,
    task_role: iam.IRole,
    execution_role: iam.IRole,
    log_group: logs.ILogGroup,
    environment: Mapping[str, str],
    secrets: Mapping[str, secretsmanager.ISecret],
    health_path: str = ALIVE,
) -> ecs.FargateTaskDefinition:
    """The task definition.

    Parameters: `cpu` in units of 1/1024 vCPU; `environment`, the proxy's settings; `secrets`, by variable, those
    that ECS is to fetch when a task starts, as the execution role, which is allowed to;
    `health_path`, `ALIVE` or `READY`.
    """
    task = ecs.FargateTaskDefinition(
        scope,
        "Task",
        cpu=cpu,
        memory_limit_mib=memory_limit_mib,
        task_role=task_role,
        execution_role=execution_role,
        runtime_platform=ecs.RuntimePlatform(
            cpu_architecture=ARCHITECTURES[need_architecture(architecture)],
            operating_system_family=ecs.OperatingSystemFamily.LINUX,
        ),
    )
    acknowledge(task, "AwsSolutions-ECS2", "The variables are settings; secrets are named by ARN")
    linux = ecs.LinuxParameters(scope, "Linux")
    linux.drop_capabilities(ecs.Capability.ALL)
    container = task.add_container(
        CONTAINER,
        image=image,
        essential=True,
        user="65532:65532",
        readonly_root_filesystem=True,
        linux_parameters=linux,
        stop_timeout=STOP_TIMEOUT,
        environment=dict(environment),
        secrets={name: ecs.Secret.from_secrets_manager(secret) for name, secret in secrets.items()},
        logging=ecs.LogDrivers.aws_logs(
            # Logs that CloudWatch does not take must not hold up queries.
            stream_prefix=CONTAINER,
            log_group=log_group,
            mode=ecs.AwsLogDriverMode.NON_BLOCKING,
        ),
        health_check=ecs.HealthCheck(
            command=[*HEALTHCHECK, health_path],
            interval=Duration.seconds(10),
            timeout=Duration.seconds(5),
            retries=3,
            start_period=Duration.seconds(30),
        ),
        port_mappings=[
            ecs.PortMapping(container_port=LISTEN_PORT, name="postgresql"),
            ecs.PortMapping(container_port=HEALTH_PORT, name="health"),
        ],
    )
    container.add_ulimits(ecs.Ulimit(name=ecs.UlimitName.NOFILE, soft_limit=OPEN_FILES, hard_limit=OPEN_FILES))
    return task
