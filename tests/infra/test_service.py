"""The ECS service and its task."""

from __future__ import annotations

import json
from typing import Any

from tests.infra.template import Assembly, Template


def container(template: Template) -> Any:
    (found,) = template.one("AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    return found


def test_tasks_run_on_arm_unless_x86_is_chosen(default: Assembly, existing: Assembly) -> None:
    platforms = [
        assembly["proxy"].one("AWS::ECS::TaskDefinition")["RuntimePlatform"]["CpuArchitecture"]
        for assembly in (default, existing)
    ]
    assert platforms == ["ARM64", "X86_64"]


def test_the_spikes_image_is_built_for_the_architecture_that_was_chosen(existing: Assembly, isolated: Assembly) -> None:
    found = []
    for assembly in (existing, isolated):
        task = assembly["load"].one("AWS::ECS::TaskDefinition")
        assets = json.loads((assembly.folder / f"{assembly.prefix}-load.assets.json").read_text())
        (image,) = assets["dockerImages"].values()
        found.append((task["RuntimePlatform"]["CpuArchitecture"], image["source"]["platform"]))
    assert found == [("X86_64", "linux/amd64"), ("ARM64", "linux/arm64")]


def test_two_tasks_always_run_in_two_zones(default: Assembly) -> None:
    proxy = default["proxy"]
    assert proxy.one("AWS::ApplicationAutoScaling::ScalableTarget")["MinCapacity"] == 2
    service = proxy.one("AWS::ECS::Service")
    # A deployment leaves the number to scaling.
    assert "DesiredCount" not in service
    assert len(service["NetworkConfiguration"]["AwsvpcConfiguration"]["Subnets"]) == 2
    assert service["AvailabilityZoneRebalancing"] == "ENABLED"
    subnets = [
        subnet
        for subnet in default["network"].of_type("AWS::EC2::Subnet").values()
        if any(tag["Value"] == "Private" for tag in subnet["Tags"])
    ]
    assert len({str(subnet["AvailabilityZone"]) for subnet in subnets}) == 2


def test_a_deployment_that_fails_is_rolled_back_and_never_takes_a_ready_task_away(default: Assembly) -> None:
    configuration = default["proxy"].one("AWS::ECS::Service")["DeploymentConfiguration"]
    assert configuration["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert configuration["MinimumHealthyPercent"] == 100
    assert configuration["MaximumPercent"] == 200


def test_an_outage_of_the_database_is_no_reason_to_replace_a_task(default: Assembly, small: Assembly) -> None:
    """/healthz is about the process; /readyz, too, once a login has worked (tests/proxy/metrics/test_ready.py)."""
    checked = {}
    for assembly in (default, small):
        command = container(assembly["proxy"])["HealthCheck"]["Command"]
        assert command[:4] == ["CMD", "/opt/tidegate/bin/python", "-m", "tidegate_proxy.healthcheck"]
        checked[assembly.prefix] = command[4:]
    # Without a load balancer nobody else would ask whether a new task can log in at all.
    assert checked == {"tidegate": ["/healthz"], "tidegate-small": ["/readyz"]}


def test_tasks_have_no_public_address_and_no_way_in_for_people(default: Assembly) -> None:
    service = default["proxy"].one("AWS::ECS::Service")
    assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    assert service["EnableExecuteCommand"] is False


def test_the_container_can_do_as_little_as_it_needs(default: Assembly) -> None:
    found = container(default["proxy"])
    assert found["ReadonlyRootFilesystem"] is True
    assert found["User"] == "65532:65532"
    assert found["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert "Privileged" not in found
    assert {port["ContainerPort"] for port in found["PortMappings"]} == {5432, 8080}


def test_the_proxy_drains_within_what_ecs_allows(default: Assembly) -> None:
    found = container(default["proxy"])
    assert found["StopTimeout"] == 120
    variables = default["proxy"].environment()
    delay, timeout = int(variables["TIDEGATE_DRAIN_DELAY"]), int(variables["TIDEGATE_DRAIN_TIMEOUT"])
    assert 60 <= delay + timeout < found["StopTimeout"]


def test_every_client_may_have_its_open_file(default: Assembly) -> None:
    (limit,) = container(default["proxy"])["Ulimits"]
    assert limit["Name"] == "nofile"
    assert limit["SoftLimit"] == limit["HardLimit"] > 2 * 10_000


def test_logs_are_encrypted_kept_for_a_while_and_never_hold_up_queries(default: Assembly) -> None:
    proxy = default["proxy"]
    group = proxy.one("AWS::Logs::LogGroup")
    assert group["LogGroupName"] == "/tidegate/tidegate"
    assert group["RetentionInDays"] == 30
    key = group["KmsKeyId"]["Fn::GetAtt"][0]
    assert "LogKey" in key
    assert proxy.of_type("AWS::KMS::Key")[key]["EnableKeyRotation"] is True
    logging = container(proxy)["LogConfiguration"]
    assert (logging["LogDriver"], logging["Options"]["mode"]) == ("awslogs", "non-blocking")


def test_scaling_is_by_cpu_and_clients_and_slow_to_take_tasks_away(default: Assembly) -> None:
    policies = default["proxy"].of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values()
    rules = [policy["TargetTrackingScalingPolicyConfiguration"] for policy in policies]
    assert len(rules) == 2
    for rule in rules:
        assert rule["ScaleInCooldown"] >= 600
        assert rule["ScaleInCooldown"] > 5 * rule["ScaleOutCooldown"]
    by_cpu = next(rule for rule in rules if "PredefinedMetricSpecification" in rule)
    assert by_cpu["PredefinedMetricSpecification"]["PredefinedMetricType"] == "ECSServiceAverageCPUUtilization"
    by_clients = next(rule for rule in rules if "CustomizedMetricSpecification" in rule)
    metric = by_clients["CustomizedMetricSpecification"]
    assert (metric["Namespace"], metric["MetricName"], metric["Statistic"]) == (
        "Tidegate",
        "ClientConnections",
        "Average",
    )
    # A spike of 500 is the queue's business.
    assert by_clients["TargetValue"] > 500


def test_the_image_is_built_of_what_its_dockerfile_copies_and_nothing_else(default: Assembly) -> None:
    assets = json.loads((default.folder / "tidegate-proxy.assets.json").read_text())
    (image,) = assets["dockerImages"].values()
    source = image["source"]
    assert (source["dockerFile"], source["platform"]) == ("proxy/Dockerfile", "linux/arm64")
    folder = default.folder / source["directory"]
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "setup.py", "proxy/requirements.txt", "proxy/tidegate_proxy/cli.py"} <= names
    assert not any(name.endswith((".so", ".pyc")) or name.startswith((".git/", "docs/", "infra/")) for name in names)
    assert {name for name in names if name.startswith("tests/")} <= {
        "tests/support/rawclient.py",
        "tests/support/transports.py",
        *(name for name in names if name.startswith("tests/proxy/core/")),
    }


def test_spot_runs_only_what_is_beyond_the_least(default: Assembly, existing: Assembly) -> None:
    strategy = existing["proxy"].one("AWS::ECS::Service")["CapacityProviderStrategy"]
    assert {entry["CapacityProvider"]: entry.get("Base", 0) for entry in strategy} == {"FARGATE": 2, "FARGATE_SPOT": 0}
    assert "CapacityProviderStrategy" not in default["proxy"].one("AWS::ECS::Service")


def test_a_service_on_spot_waits_for_its_clusters_capacity_providers_and_goes_before_them(existing: Assembly) -> None:
    resources = existing["proxy"].resources
    (service,) = [one for one in resources.values() if one["Type"] == "AWS::ECS::Service"]
    (name,) = existing["proxy"].of_type("AWS::ECS::ClusterCapacityProviderAssociations")
    assert resources[name]["Properties"]["CapacityProviders"] == ["FARGATE", "FARGATE_SPOT"]
    assert name in service["DependsOn"]
