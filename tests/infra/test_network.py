"""Exactly client, load balancer, proxy, database; nothing from outside."""

from __future__ import annotations

import json
from typing import Any

from tests.infra.template import Assembly, Template


def rules(template: Template, direction: str) -> set[tuple[str, str, str]]:
    """(group, peer, port) of every rule, groups by what they are described as."""
    names = {
        name: properties["GroupDescription"].split()[0]
        for name, properties in template.of_type("AWS::EC2::SecurityGroup").items()
    }
    peer_key = "SourceSecurityGroupId" if direction == "Ingress" else "DestinationSecurityGroupId"

    def of(value: Any) -> str:
        text = template.text(value)
        return next((label for name, label in names.items() if text == f"<{name}.GroupId>"), text)

    found = set()
    for rule in template.of_type(f"AWS::EC2::SecurityGroup{direction}").values():
        found.add((of(rule["GroupId"]), of(rule.get(peer_key, rule.get("CidrIp"))), template.text(rule["FromPort"])))
    for name, properties in template.of_type("AWS::EC2::SecurityGroup").items():
        for rule in properties.get(f"SecurityGroup{direction}", ()):
            found.add((names[name], of(rule.get(peer_key, rule.get("CidrIp"))), template.text(rule["FromPort"])))
    return found


def test_security_groups_let_in_the_next_in_the_chain_and_nobody_else(existing: Assembly) -> None:
    assert rules(existing["proxy"], "Ingress") == {
        ("Load", "Clients", "5432"),
        ("Tasks", "Load", "5432"),
        ("Tasks", "Load", "8080"),
        ("Tasks", "Tasks", "5433"),
        ("sg-0123456789abcdef0", "Tasks", "5432"),
    }


def test_security_groups_let_out_to_the_next_in_the_chain_and_to_aws(existing: Assembly) -> None:
    assert rules(existing["proxy"], "Egress") == {
        ("Clients", "Load", "5432"),
        ("Clients", "0.0.0.0/0", "443"),
        ("Load", "Tasks", "5432"),
        ("Load", "Tasks", "8080"),
        ("Tasks", "Tasks", "5433"),
        ("Tasks", "sg-0123456789abcdef0", "5432"),
        ("Tasks", "0.0.0.0/0", "443"),
    }


def test_without_a_load_balancer_clients_reach_the_tasks_themselves(small: Assembly) -> None:
    found = rules(small["proxy"], "Ingress")
    assert ("Tasks", "Clients", "5432") in found
    assert not any(group == "Load" for group, _, _ in found)


def test_the_default_security_group_is_nobodys(default: Assembly) -> None:
    used = {
        str(group)
        for group in default["proxy"].one("AWS::ECS::Service")["NetworkConfiguration"]["AwsvpcConfiguration"][
            "SecurityGroups"
        ]
    }
    assert len(used) == 1
    assert "Tasks" in used.pop()


def test_a_database_and_the_secret_of_its_user_have_the_name_that_was_chosen(
    default: Assembly, isolated: Assembly
) -> None:
    for assembly, name in ((default, "app"), (isolated, "shop")):
        database = assembly["database"]
        assert database.one("AWS::RDS::DBCluster")["DatabaseName"] == name
        templates = [
            json.loads(database.text(secret["GenerateSecretString"]["SecretStringTemplate"]))
            for secret in database.of_type("AWS::SecretsManager::Secret").values()
        ]
        assert [one["dbname"] for one in templates if one["username"] == "app"] == [name]
        assert assembly["proxy"].environment()["TIDEGATE_DATABASES"].startswith(f'{{"{name}":')


def test_a_vpc_without_a_way_out_has_the_services_that_the_proxy_calls(isolated: Assembly) -> None:
    network = isolated["network"]
    assert not network.of_type("AWS::EC2::NatGateway")
    assert not network.of_type("AWS::EC2::InternetGateway")
    names = {network.text(endpoint["ServiceName"]) for endpoint in network.of_type("AWS::EC2::VPCEndpoint").values()}
    for service in ("ecr.api", "ecr.dkr", "logs", "secretsmanager", "sts", "lambda", "s3"):
        assert any(name.endswith(f".{service}") for name in names), service


def test_a_networks_flow_logs_go_with_it(default: Assembly) -> None:
    (group,) = [one for one in default["network"].resources.values() if one["Type"] == "AWS::Logs::LogGroup"]
    assert group["DeletionPolicy"] == "Delete"


def test_a_databases_log_lines_are_not_kept_for_ever(default: Assembly, small: Assembly) -> None:
    for assembly in (default, small):
        (retention,) = [one for one in assembly["database"].resources.values() if one["Type"] == "Custom::LogRetention"]
        assert retention["Properties"]["RetentionInDays"] == 30
