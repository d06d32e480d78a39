"""What AWS's own calls make of the templates: secrets, log groups, alarms and the dashboard.

moto's CloudFormation knows neither secrets nor alarms, so each resource is made by the call that CloudFormation would
make, with the properties as they stand: boto3 checks them against AWS's own description of that call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws
from tests.infra.template import Assembly, Template

REGION = "eu-west-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield


def written_out(value: Any, template: Template) -> Any:
    """Properties without references: each one stands as the text of what it names."""
    match value:
        case {"Ref": str()} | {"Fn::GetAtt": _} | {"Fn::Join": _} | {"Fn::ImportValue": _} | {"Fn::Sub": _}:
            return template.text(value)
        case dict():
            return {key: written_out(inner, template) for key, inner in value.items()}
        case list():
            return [written_out(inner, template) for inner in value]
    return value


def of_type(template: Template, kind: str) -> list[Any]:
    return [
        {key: value for key, value in written_out(properties, template).items() if key != "Tags"}
        for properties in template.of_type(kind).values()
    ]


@pytest.mark.usefixtures("aws")
def test_the_databases_secrets_have_the_shape_that_the_proxy_reads(default: Assembly) -> None:
    client = boto3.client("secretsmanager")
    for number, properties in enumerate(of_type(default["database"], "AWS::SecretsManager::Secret")):
        generate = properties["GenerateSecretString"]
        password = client.get_random_password(
            PasswordLength=generate["PasswordLength"], ExcludeCharacters=generate["ExcludeCharacters"]
        )["RandomPassword"]
        content = json.loads(generate["SecretStringTemplate"]) | {generate["GenerateStringKey"]: password}
        client.create_secret(Name=f"secret-{number}", SecretString=json.dumps(content))
    found = [
        json.loads(client.get_secret_value(SecretId=secret["ARN"])["SecretString"])
        for secret in client.list_secrets()["SecretList"]
    ]
    assert {secret["username"] for secret in found} == {"postgres", "app"}
    for secret in found:
        assert len(secret["password"]) >= 30
        # What RDS refuses in passwords, and quotes.
        assert not set(secret["password"]) & set(" %+~`#$&*()|[]{}:;<>?!'/@\"\\")


@pytest.mark.usefixtures("aws")
def test_log_groups_can_be_made_and_keep_what_they_promise(default: Assembly) -> None:
    client = boto3.client("logs")
    for properties in of_type(default["proxy"], "AWS::Logs::LogGroup"):
        client.create_log_group(logGroupName=properties["LogGroupName"], kmsKeyId=properties["KmsKeyId"])
        client.put_retention_policy(
            logGroupName=properties["LogGroupName"], retentionInDays=properties["RetentionInDays"]
        )
    (group,) = client.describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/tidegate/tidegate", 30)


@pytest.mark.usefixtures("aws")
def test_alarms_and_dashboard_can_be_made(existing: Assembly) -> None:
    client = boto3.client("cloudwatch")
    for properties in of_type(existing["proxy"], "AWS::CloudWatch::Alarm"):
        client.put_metric_alarm(**properties)
    alarms = client.describe_alarms()["MetricAlarms"]
    # Names are unique: an alarm made twice would take the place of the other.
    assert len(alarms) == len(existing["proxy"].of_type("AWS::CloudWatch::Alarm"))
    assert all(alarm["AlarmName"].startswith("shop-") for alarm in alarms)
    for properties in of_type(existing["proxy"], "AWS::CloudWatch::Dashboard"):
        client.put_dashboard(**properties)
    (dashboard,) = client.list_dashboards()["DashboardEntries"]
    body = json.loads(client.get_dashboard(DashboardName=dashboard["DashboardName"])["DashboardBody"])
    assert len(body["widgets"]) > 15
