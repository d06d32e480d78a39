"""Alarms on what AWS measures: tasks, memory, deployments."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sns as sns
from constructs import Construct

from tidegate_infra.alarms.rule import Rule
from tidegate_infra.alarms.thresholds import Thresholds
from tidegate_infra.proxy import TidegateProxy

MINUTE = Duration.minutes(1)


def service_metric(proxy: TidegateProxy, namespace: str, name: str, statistic: str) -> cloudwatch.Metric:
    """A metric of the proxy's ECS service."""
    return cloudwatch.Metric(
        namespace=namespace,
        metric_name=name,
        dimensions_map={"ClusterName": proxy.cluster.cluster_name, "ServiceName": proxy.service.service_name},
        statistic=statistic,
        period=MINUTE,
    )


def healthy_tasks(proxy: TidegateProxy) -> cloudwatch.Metric:
    """Tasks that clients are sent to: by the load balancer's checks, or, without one, those that run."""
    if proxy.balancer is None:
        return service_metric(proxy, "ECS/ContainerInsights", "RunningTaskCount", "Minimum")
    return cloudwatch.Metric(
        namespace="AWS/NetworkELB",
        metric_name="HealthyHostCount",
        dimensions_map={
            "LoadBalancer": proxy.balancer.load_balancer.load_balancer_full_name,
            "TargetGroup": proxy.balancer.target_group.target_group_full_name,
        },
        statistic="Minimum",
        period=MINUTE,
    )


def missing_tasks(proxy: TidegateProxy) -> cloudwatch.MathExpression:
    """How many tasks are wanted, but not healthy."""
    wanted = service_metric(proxy, "ECS/ContainerInsights", "DesiredTaskCount", "Maximum")
    return cloudwatch.MathExpression(
        # Without any task in the target group the balancer measures nothing at all; that is none, not unknown.
        expression="wanted - FILL(healthy, 0)",
        using_metrics={"wanted": wanted, "healthy": healthy_tasks(proxy)},
        label="Tasks missing",
        period=MINUTE,
    )


def failed_deployments(scope: Construct, proxy: TidegateProxy, topic: sns.ITopic) -> cloudwatch.Metric:
    """Deployments that the circuit breaker gave up; what ECS says of each one goes to the topic, too."""
    rule = events.Rule(
        scope,
        "FailedDeployment",
        description="Deployments of the Tidegate proxy that failed",
        event_pattern=events.EventPattern(
            source=["aws.ecs"],
            detail_type=["ECS Deployment State Change"],
            detail={"eventName": ["SERVICE_DEPLOYMENT_FAILED"]},
            resources=[proxy.service.service_arn],
        ),
        targets=[targets.SnsTopic(topic)],
    )
    return cloudwatch.Metric(
        namespace="AWS/Events",
        metric_name="TriggeredRules",
        dimensions_map={"RuleName": rule.rule_name},
        statistic="Sum",
        period=MINUTE,
    )


def platform_rules(scope: Construct, proxy: TidegateProxy, thresholds: Thresholds, topic: sns.ITopic) -> list[Rule]:
    """The rules. Parameters: `scope`, in which what they need besides is made."""
    return [
        Rule(
            "MissingTasks",
            "missing-tasks",
            "Fewer tasks are healthy than wanted: the loss of another one may be the loss of all.",
            "Look at the service's events and at why the last task stopped: memory, image, secrets, /readyz.",
            missing_tasks(proxy),
            0,
            periods=thresholds.missing_task_minutes if proxy.balancer else min(thresholds.missing_task_minutes, 3),
            # Without a balancer a task counts while it runs, well or not: one that ECS replaces again and again is
            # missing in between only.
            of=None if proxy.balancer else max(thresholds.missing_task_minutes, 3) * 2,
            urgent=True,
        ),
        Rule(
            "Memory",
            "memory",
            "A task is short of memory; at its limit it is killed, and its clients reconnect all at once.",
            "Raise memory, or lower max_client_conn; a growth that never ends is a fault to report.",
            service_metric(proxy, "AWS/ECS", "MemoryUtilization", "Maximum"),
            thresholds.memory_percent,
            periods=5,
        ),
        Rule(
            "FailedDeployments",
            "failed-deployments",
            "A deployment failed and was rolled back: the proxy runs as it did before.",
            "Read the stopped tasks' reasons and first log lines; correct what was deployed, and deploy again.",
            failed_deployments(scope, proxy, topic),
            thresholds.failed_deployments,
        ),
    ]
