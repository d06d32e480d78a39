"""The container's environment is what the proxy itself understands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.infra.template import Assembly
from tests.proxy.settings.test_cli import run

from tidegate_infra.errors import DeploymentError
from tidegate_infra.settings_environment import variables
from tidegate_proxy.settings import Settings, load_settings

FETCHED = "what Secrets Manager has made"


def filled_in(assembly: Assembly) -> dict[str, str]:
    """The container's variables, once CloudFormation and ECS have filled in what they know."""
    variables = assembly["proxy"].environment()
    filled = {
        name: re.sub(r"<[^<>]*(Endpoint\.?Port|EndpointPort)[^<>]*>", "5432", value)
        for name, value in variables.items()
    }
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:made-AbCdEf"
    filled = {name: re.sub(r"<[^<>]*Endpoint[^<>]*>", "db.example.com", value) for name, value in filled.items()}
    filled = {name: re.sub(r"<[^<>]*(Secret|Owner|User)[^<>]*>", arn, value) for name, value in filled.items()}
    filled = {
        name: re.sub(r"<[^<>]*Role[^<>]*>", "arn:aws:iam::123456789012:role/made", value)
        for name, value in filled.items()
    }
    return filled | dict.fromkeys(assembly["proxy"].secrets(), FETCHED)


def settings(assembly: Assembly) -> Settings:
    """What the proxy makes of its variables."""
    return load_settings(None, filled_in(assembly))


@pytest.mark.parametrize("name", ["default", "small", "existing", "isolated"])
def test_the_proxy_accepts_every_configuration(name: str, request: pytest.FixtureRequest) -> None:
    found = settings(request.getfixturevalue(name))
    assert (found.listen_host, found.listen_port, found.http_port) == ("0.0.0.0", 5432, 8080)
    assert found.cloudwatch_metrics
    assert not found.check_targets


def test_a_cluster_has_a_second_name_for_its_readers(default: Assembly, small: Assembly) -> None:
    found = settings(default).databases
    assert {name: database.role for name, database in found.items()} == {"app": "writer", "app_ro": "reader"}
    assert found["app"].host == found["app_ro"].host
    assert set(settings(small).databases) == {"app"}


def test_functions_log_in_by_iam_as_the_granted_user(default: Assembly) -> None:
    iam = settings(default).iam
    assert iam is not None
    assert (iam.region, iam.proxy_id) == ("eu-west-1", "tidegate")
    (rule,) = iam.rules
    assert rule.users == ("app",)
    function = next(
        properties
        for name, properties in default["functions"].of_type("AWS::Lambda::Function").items()
        if name.startswith("Counter")
    )
    variables = function["Environment"]["Variables"]
    assert (variables["TIDEGATE_AUTH"], variables["TIDEGATE_PROXY_ID"]) == ("tidegate-iam", "tidegate")


def test_roles_of_functions_elsewhere_may_log_in(existing: Assembly) -> None:
    iam = settings(existing).iam
    assert iam is not None
    principals = [rule.principal for rule in iam.rules]
    assert principals[:2] == [f"arn:aws:iam::123456789012:role/{name}" for name in ("orders", "carts")]
    assert all(rule.users == ("app",) for rule in iam.rules)


def test_the_role_in_the_rule_is_the_functions_own(default: Assembly) -> None:
    rules = json.loads(default["proxy"].environment()["TIDEGATE_IAM__RULES"])
    (role,) = [
        properties["RoleName"]
        for name, properties in default["functions"].of_type("AWS::IAM::Role").items()
        if name.startswith("Counter")
    ]
    assert rules[0]["principal"] == f"arn:aws:iam::123456789012:role/{default['functions'].text(role)}"
    assert len(default["functions"].text(role)) <= 64


def test_tasks_share_the_databases_connections(default: Assembly, existing: Assembly) -> None:
    for assembly in (default, existing):
        found = settings(assembly)
        assert (found.fleet, found.max_connections_percent) == (True, 90)
        # The port that the tasks' security group opens among themselves.
        assert found.fleet_port == 5433


@pytest.mark.parametrize("name", ["default", "small", "existing", "isolated"])
def test_all_tasks_show_an_unknown_user_the_same_salt(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assembly: Assembly = request.getfixturevalue(name)
    secret = settings(assembly).scram_mock_secret
    assert secret is not None
    assert secret.get_secret_value() == FETCHED
    checked = run("check", cwd=tmp_path, variables=filled_in(assembly))
    assert checked.returncode == 0, checked.stderr
    assert "Warning" not in checked.stderr
    assert "scram_mock_secret" not in checked.stderr
    proxy = assembly["proxy"]
    (source,) = proxy.secrets().values()
    # The reference is to the whole text, not to a key of JSON in it.
    (made,) = [
        properties for name, properties in proxy.of_type("AWS::SecretsManager::Secret").items() if source == f"<{name}>"
    ]
    assert set(made["GenerateSecretString"]) == {"PasswordLength", "ExcludePunctuation"}
    assert made["GenerateSecretString"]["PasswordLength"] >= 32


def test_by_iam_the_fleet_logs_in_as_a_user_that_the_task_may_log_in_as(existing: Assembly) -> None:
    database = settings(existing).databases["app"]
    assert (database.server_auth, database.auth_user) == ("iam", "app")


def test_without_tls_clients_have_passwords(isolated: Assembly) -> None:
    found = settings(isolated)
    assert (found.client_tls, found.iam) == ("disable", None)
    assert set(found.users) == {"postgres", "app"}


def test_names_and_tables_of_ones_own_settings_reach_the_proxy() -> None:
    secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:made-AbCdEf"
    given = {
        "client_tls_secret": secret,
        "aws_region": "eu-west-1",
        "admin_users": ["app", "operator"],
        "stats_users": (),
        "cloudwatch_metrics": False,
        "connection_borrow_timeout": 2.0,
        "databases": {"app": {"host": "db.example.com", "port": 5432}},
        "users": {name: {"secret": secret} for name in ("app", "operator")},
        "iam.region": "eu-west-1",
        "iam.proxy_id": "tidegate",
        "iam.rules": [{"principal": "arn:aws:iam::123456789012:role/orders", "users": ["app"]}],
        "init_query": None,
    }
    found = load_settings(None, variables(given))
    assert (found.admin_users, found.stats_users) == (("app", "operator"), ())
    assert not found.cloudwatch_metrics
    assert found.databases["app"].host == "db.example.com"
    assert set(found.users) == {"app", "operator"}
    assert found.iam is not None
    assert found.iam.rules[0].users == ("app",)


@pytest.mark.parametrize("value", [{"app"}, ["app", 1], ["a,b"], object(), {"app": {"host": object()}}])
def test_a_setting_that_no_variable_can_hold_is_refused_by_name(value: object) -> None:
    with pytest.raises(DeploymentError, match="admin_users"):
        variables({"admin_users": value})


def test_the_console_is_open_to_whom_the_parameters_name(existing: Assembly, default: Assembly) -> None:
    assert (settings(existing).admin_users, settings(existing).stats_users) == (("app",), ())
    assert not settings(default).admin_users
