"""`TidegateProxy` in a user's own app: in the place of `rds.DatabaseProxy`, and what it can be told beyond."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from tests.infra.template import Template

import tidegate_infra
from tidegate_infra import node as node

import aws_cdk as cdk  # isort: skip
from aws_cdk import aws_ec2 as ec2  # isort: skip
from aws_cdk import aws_ecs as ecs  # isort: skip
from aws_cdk import aws_iam as iam  # isort: skip
from aws_cdk import aws_logs as logs  # isort: skip
from aws_cdk import aws_rds as rds  # isort: skip
from aws_cdk import aws_secretsmanager as secretsmanager  # isort: skip
from tidegate_infra.alarms import Thresholds, TidegateAlarms  # isort: skip
from tidegate_infra.proxy import TidegateProxy  # isort: skip
from tidegate_infra.proxy_target import ProxyTarget  # isort: skip

WITHOUT_COUNTERPART = {"client_password_auth_type", "session_pinning_filters"}


@pytest.fixture
def stack(tmp_path: Path) -> cdk.Stack:
    return cdk.Stack(cdk.App(outdir=str(tmp_path / "out")), "Shop")


@pytest.fixture
def vpc(stack: cdk.Stack) -> ec2.Vpc:
    return ec2.Vpc(stack, "Vpc", max_azs=2)


@pytest.fixture
def cluster(stack: cdk.Stack, vpc: ec2.Vpc) -> rds.DatabaseCluster:
    return rds.DatabaseCluster(
        stack,
        "Cluster",
        vpc=vpc,
        engine=rds.DatabaseClusterEngine.aurora_postgres(version=rds.AuroraPostgresEngineVersion.VER_17_7),
        writer=rds.ClusterInstance.provisioned("Writer", instance_type=ec2.InstanceType("r6g.large")),
    )


def synthesised(stack: cdk.Stack) -> Template:
    app = stack.node.root
    assert isinstance(app, cdk.App)
    app.synth()
    return Template(Path(app.outdir) / f"{stack.stack_name}.template.json")


def tidegate(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster, **changed: Any) -> TidegateProxy:
    given: dict[str, Any] = {
        "proxy_target": ProxyTarget.from_cluster(cluster),
        "vpc": vpc,
        "certificate": secretsmanager.Secret.from_secret_name_v2(stack, "Certificate", "certificate"),
        "image": ecs.ContainerImage.from_registry("tidegate"),
    }
    return TidegateProxy(stack, "Proxy", **(given | changed))


def test_every_parameter_of_rds_proxy_has_its_place() -> None:
    theirs = inspect.signature(rds.DatabaseProxy.__init__).parameters
    ours = inspect.signature(TidegateProxy.__init__).parameters
    assert set(theirs) - {"id"} - WITHOUT_COUNTERPART <= set(ours)
    for name in ("endpoint", "connections", "grant_connect"):
        assert hasattr(rds.DatabaseProxy, name)


def test_one_is_replaced_by_the_other_in_place(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster) -> None:
    """The same arguments, target and certificate aside; the same calls afterwards."""
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    group = ec2.SecurityGroup(stack, "Group", vpc=vpc, allow_all_outbound=False)
    assert cluster.secret is not None
    shared: dict[str, Any] = {
        "secrets": [cluster.secret],
        "iam_auth": True,
        "require_tls": True,
        "borrow_timeout": cdk.Duration.seconds(30),
        "idle_client_timeout": cdk.Duration.minutes(10),
        "init_query": "SET app.tier = 'web'",
        "max_connections_percent": 80,
        "max_idle_connections_percent": 40,
        "debug_logging": True,
        "security_groups": [group],
        "db_proxy_name": "shop",
        "role": iam.Role(stack, "ProxyRole", assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com")),
    }
    theirs = rds.DatabaseProxy(stack, "Theirs", proxy_target=rds.ProxyTarget.from_cluster(cluster), vpc=vpc, **shared)
    ours = tidegate(stack, vpc, cluster, **shared)
    for number, proxy in enumerate((theirs, ours)):
        proxy.grant_connect(role, "app")
        proxy.connections.allow_from(group, ec2.Port.tcp(5432))
        cdk.CfnOutput(stack, f"Endpoint{number}", value=proxy.endpoint)
    # As a whole it can be connected to, also by what is written in JavaScript.
    group.connections.allow_to_default_port(ours)
    environment = synthesised(stack).environment()
    assert environment["TIDEGATE_CONNECTION_BORROW_TIMEOUT"] == "30"
    assert environment["TIDEGATE_IDLE_CLIENT_TIMEOUT"] == "600"
    assert environment["TIDEGATE_INIT_QUERY"] == "SET app.tier = 'web'"
    assert (environment["TIDEGATE_MAX_CONNECTIONS_PERCENT"], environment["TIDEGATE_LOG_LEVEL"]) == ("80", "debug")
    assert environment["TIDEGATE_MAX_IDLE_CONNECTIONS_PERCENT"] == "40"
    assert environment["TIDEGATE_PROXY_NAME"] == "shop"
    assert list(json.loads(environment["TIDEGATE_USERS"].replace("<", "").replace(">", ""))) == ["postgres"]


def test_a_second_grant_adds_and_a_repeated_one_does_not(
    stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster
) -> None:
    proxy = tidegate(stack, vpc, cluster, iam_auth=True)
    for user in ("app", "report", "app"):
        proxy.grant_connect(iam.ArnPrincipal("arn:aws:iam::123456789012:role/shop"), user)
    rules = json.loads(synthesised(stack).environment()["TIDEGATE_IAM__RULES"])
    assert rules == [{"principal": "arn:aws:iam::123456789012:role/shop", "users": ["app", "report"]}]


def test_any_setting_of_the_proxy_can_be_given(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster) -> None:
    tidegate(
        stack,
        vpc,
        cluster,
        settings={"query_timeout": 30, "admin_users": "postgres", "log_level": "warning"},
        log_retention=logs.RetentionDays.ONE_WEEK,
    )
    environment = synthesised(stack).environment()
    assert environment["TIDEGATE_QUERY_TIMEOUT"] == "30"
    assert environment["TIDEGATE_ADMIN_USERS"] == "postgres"
    assert environment["TIDEGATE_LOG_LEVEL"] == "warning"


def test_who_gives_the_text_for_salts_needs_no_secret_for_it(
    stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster
) -> None:
    tidegate(stack, vpc, cluster, settings={"scram_mock_secret": "the same as of another fleet"})
    template = synthesised(stack)
    assert template.environment()["TIDEGATE_SCRAM_MOCK_SECRET"] == "the same as of another fleet"
    assert not template.secrets()


def test_thresholds_are_parameters(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster) -> None:
    proxy = tidegate(stack, vpc, cluster, db_proxy_name="shop")
    TidegateAlarms(stack, "Alarms", proxy=proxy, thresholds=Thresholds(borrow_latency_seconds=5, certificate_days=30))
    alarms = {one["AlarmName"]: one for one in synthesised(stack).of_type("AWS::CloudWatch::Alarm").values()}
    assert alarms["shop-borrow-latency"]["Threshold"] == 5_000_000
    assert alarms["shop-certificate-expires"]["Threshold"] == 30


def test_a_fixed_number_of_tasks_does_not_scale(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster) -> None:
    tidegate(stack, vpc, cluster, min_tasks=3, max_tasks=3)
    template = synthesised(stack)
    assert template.one("AWS::ECS::Service")["DesiredCount"] == 3
    assert not template.of_type("AWS::ApplicationAutoScaling::ScalableTarget")


def test_a_task_of_several_vcpus_uses_them_all(stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster) -> None:
    tidegate(stack, vpc, cluster, cpu=4096, memory_limit_mib=8192)
    template = synthesised(stack)
    assert template.environment()["TIDEGATE_WORKERS"] == "4"
    # Each process takes cancel requests on a port of its own.
    for direction in ("Ingress", "Egress"):
        ports = {
            (rule["FromPort"], rule["ToPort"])
            for rule in template.of_type(f"AWS::EC2::SecurityGroup{direction}").values()
            if "Cancel" in rule["Description"]
        }
        assert ports == {(5433, 5436)}
    policies = template.of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values()
    found = [policy["TargetTrackingScalingPolicyConfiguration"] for policy in policies]
    # The metric is an average over processes.
    (by_clients,) = [one for one in found if "CustomizedMetricSpecification" in one]
    assert by_clients["TargetValue"] == 1000


def test_a_task_of_one_vcpu_or_less_is_one_process(
    stack: cdk.Stack, vpc: ec2.Vpc, cluster: rds.DatabaseCluster
) -> None:
    tidegate(stack, vpc, cluster, cpu=512, memory_limit_mib=1024)
    assert "TIDEGATE_WORKERS" not in synthesised(stack).environment()


def test_everything_has_its_place_in_the_package() -> None:
    for name in tidegate_infra.__all__:
        assert getattr(tidegate_infra, name).__name__ == name
    assert set(tidegate_infra.__all__) == set(tidegate_infra._MODULES)
    with pytest.raises(AttributeError, match="has no attribute 'TidegatProxy'"):
        tidegate_infra.TidegatProxy  # noqa: B018
