"""IAM: what the proxy, ECS and the functions may do."""

from __future__ import annotations

import re
from pathlib import Path

from tests.infra.configurations import EXISTING
from tests.infra.template import Assembly, Template, listed, statements

SOURCES = Path(__file__).parents[2] / "infra" / "tidegate_infra"

UNAVOIDABLE = {
    "ecr:GetAuthorizationToken": "AWS knows no narrower resource for it",
    "logs:PutRetentionPolicy": "CDK has one function for the whole stack",
    "logs:DeleteRetentionPolicy": "CDK has one function for the whole stack",
}
"""Actions that are allowed on every resource, and what the comment beside them says."""


def allowed(template: Template, role: str) -> dict[str, set[str]]:
    """Actions and the resources that a role, by part of its name, may use them on."""
    found: dict[str, set[str]] = {}
    for name, statement in statements(template):
        if role in name:
            for action in listed(statement["Action"]):
                found.setdefault(action, set()).update(template.text(one) for one in listed(statement["Resource"]))
    return found


def test_the_proxy_reads_its_secrets_and_nothing_else(default: Assembly) -> None:
    actions = allowed(default["proxy"], "TaskRole")
    assert set(actions) == {"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"}
    for resources in actions.values():
        assert len(resources) == 3  # two database users and the certificate
        assert not any(resource == "*" for resource in resources)


def test_by_iam_the_proxy_may_log_in_as_the_granted_users_only(existing: Assembly) -> None:
    actions = allowed(existing["proxy"], "TaskRole")
    assert actions["rds-db:connect"] == {"arn:aws:rds-db:eu-west-1:123456789012:dbuser:cluster-ABCDEFGHIJKL/app"}
    assert actions["secretsmanager:GetSecretValue"] == {
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/certificate-AbCdEf"
    }


def test_a_secret_with_a_key_of_ones_own_can_be_decrypted_and_nothing_else_can(existing: Assembly) -> None:
    proxy = existing["proxy"]
    (decrypt,) = [
        statement
        for _, statement in statements(proxy)
        if any("kms" in action for action in listed(statement["Action"]))
    ]
    assert (decrypt["Action"], decrypt["Effect"]) == ("kms:Decrypt", "Allow")
    assert proxy.text(decrypt["Resource"]) == existing_key()
    # For Secrets Manager's sake only.
    assert decrypt["Condition"] == {"StringEquals": {"kms:ViaService": "secretsmanager.eu-west-1.amazonaws.com"}}


def existing_key() -> str:
    return str(EXISTING["certificate_secret_key"])


def test_ecs_fetches_the_image_and_one_secret_and_writes_the_one_log_group(default: Assembly) -> None:
    actions = allowed(default["proxy"], "ExecutionRole")
    assert {action.partition(":")[0] for action in actions} == {"logs", "ecr", "secretsmanager"}
    (secret,) = default["proxy"].secrets().values()
    assert actions["secretsmanager:GetSecretValue"] == {secret}
    assert secret not in allowed(default["proxy"], "TaskRole")["secretsmanager:GetSecretValue"], "the proxy need not"
    assert all("Logs" in resource for resource in actions["logs:PutLogEvents"])


def test_no_statement_is_for_every_resource_without_a_comment_that_says_why(
    default: Assembly, small: Assembly, existing: Assembly, isolated: Assembly
) -> None:
    bare = {
        action
        for assembly in (default, small, existing, isolated)
        for template in assembly
        for _, statement in statements(template)
        if statement["Effect"] == "Allow" and "*" in listed(statement["Resource"])
        for action in listed(statement["Action"])
    }
    assert bare <= set(UNAVOIDABLE)
    text = "\n".join(path.read_text() for path in SOURCES.rglob("*.py"))
    for action in bare:
        assert re.search(rf"# .*{action}.*{UNAVOIDABLE[action]}", text), f"no comment says why {action} is for *"


def test_every_action_is_named(default: Assembly, existing: Assembly, isolated: Assembly) -> None:
    for assembly in (default, existing, isolated):
        for template in assembly:
            for name, statement in statements(template):
                assert not any("*" in action for action in listed(statement["Action"])), name


def test_the_spike_may_invoke_one_function(isolated: Assembly) -> None:
    (resources,) = allowed(isolated["load"], "SpikeRole").values()
    assert len(resources) == 1
    assert "Counter" in resources.pop()
