"""Secrets Manager, read from moto's server with boto3 and through a stand-in of the Lambda extension."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from tests.lambda_layer.helpers import Context, silent_port
from tests.lambda_layer.identity.services import Service, always, moto

import tidegate
from tidegate import secrets

RDS_SHAPE = {
    "engine": "postgres",
    "host": "db.example",
    "port": 5433,
    "username": "orders",
    "password": "hunter2",
    "dbname": "shop",
}
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf"


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def client(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws)
    client = boto3.client("secretsmanager", region_name="eu-west-1")
    yield client
    client.close()


def create(client: Any, name: str, content: object) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    arn: str = client.create_secret(Name=name, SecretString=text)["ARN"]
    return arn


def test_boto3_reads_the_region_that_the_arn_names(client: Any) -> None:
    arn = create(client, "plain", RDS_SHAPE)
    assert secrets.read(arn) == secrets.Secret("orders", "hunter2", "db.example", 5433, "shop")


@pytest.mark.parametrize("name", ["username", "password", "host", "dbname"])
def test_what_postgresql_cannot_be_sent_is_refused_without_being_shown(client: Any, name: str) -> None:
    """libpq would take the text up to the NUL, and try to log in with that."""
    arn = create(client, f"nul-{name}", RDS_SHAPE | {name: "hunter2\0hunter3"})
    with pytest.raises(tidegate.PasswordUnavailable, match=f"the {name} in the secret .* holds a NUL") as caught:
        secrets.read(arn)
    assert "hunter" not in str(caught.value)


def test_a_managed_secret_of_rds_holds_only_user_and_password(client: Any) -> None:
    arn = create(client, "rds!cluster-1", {"username": "orders", "password": "hunter2"})
    assert secrets.read(arn) == secrets.Secret("orders", "hunter2", None, None, None)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("hunter2", "not a JSON object"),
        ('["hunter2"]', "not a JSON object"),
        ({"password": "hunter2"}, "no username"),
        ({"username": "orders"}, "no password"),
        ({"username": "orders", "password": ""}, "no password"),
        ({"username": "orders", "password": 7654321}, "no password"),
        ({**RDS_SHAPE, "engine": "mysql"}, "not one for PostgreSQL"),
        ({**RDS_SHAPE, "port": "hunter2"}, "port"),
        ({**RDS_SHAPE, "port": 0}, "port"),
        ({**RDS_SHAPE, "host": ["hunter2"]}, "host"),
    ],
)
def test_a_secret_of_the_wrong_shape_is_named_and_never_shown(content: object, complaint: str) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(tidegate.PasswordUnavailable, match=complaint) as caught:
        secrets._parse(ARN, text)
    assert ARN in str(caught.value)
    for secret in ("hunter2", "7654321"):
        assert secret not in str(caught.value)
        assert secret not in str(caught.value.__context__)


def test_a_secret_that_is_not_there_is_named_with_the_remedy(client: Any) -> None:
    arn = ARN.replace("shop", "absent")
    with pytest.raises(tidegate.PasswordUnavailable, match="ResourceNotFoundException; check TIDEGATE_SECRET_ARN"):
        secrets.read(arn)


def test_a_binary_secret_is_refused(client: Any) -> None:
    arn = client.create_secret(Name="binary", SecretBinary=b"hunter2")["ARN"]
    with pytest.raises(tidegate.PasswordUnavailable, match="binary"):
        secrets.read(arn)


def test_an_unreachable_secrets_manager_is_named_with_the_remedy(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
    with pytest.raises(tidegate.PasswordUnavailable, match="VPC endpoint"):
        secrets.read(ARN)


def test_a_secrets_manager_that_never_answers_does_not_hold_the_function_past_the_deadline(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_port() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{port}")
        context = Context(20.0)
        with pytest.raises(tidegate.PasswordUnavailable, match=r"no answer in time.*VPC endpoint"):
            secrets.read(ARN, time.monotonic() + 2)
        assert context.get_remaining_time_in_millis() > 0


# -- the extension ------------------------------------------------------------------------------------------------


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with Service(always(200, {"SecretString": json.dumps(RDS_SHAPE), "VersionId": "1"})) as service:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
        monkeypatch.setenv("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", str(service.port))
        yield service


def test_the_extension_is_asked_with_the_session_token_and_boto3_is_not_loaded(
    extension: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert secrets.read(ARN).password == "hunter2"
    [(path, headers)] = extension.requests
    assert path == f"/secretsmanager/get?secretId={quote(ARN, safe='')}"
    assert headers["x-aws-parameters-secrets-token"] == "session"


@pytest.mark.parametrize("answer", [(400, b"not ready to serve traffic, please wait"), (200, b"?"), (200, b"[]")])
def test_boto3_helps_out_while_the_extension_does_not_serve_as_during_init(
    extension: Service, client: Any, answer: tuple[int, bytes]
) -> None:
    extension.answer = always(*answer)
    arn = create(client, f"helped-{answer[0]}-{len(answer[1])}", RDS_SHAPE)
    assert secrets.read(arn).password == "hunter2"
    assert len(extension.requests) == 1


def test_a_fresh_reading_goes_past_the_extensions_cache(extension: Service, client: Any) -> None:
    arn = create(client, "rotated", {**RDS_SHAPE, "password": "rotated"})
    assert secrets.read(arn).password == "hunter2"
    assert secrets.read(arn, fresh=True).password == "rotated"


def test_without_extension_and_boto3_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(tidegate.PasswordUnavailable, match=r"boto3.*add one of them"):
        secrets.read(ARN)


def test_the_session_token_is_told_to_nobody_outside_lambda(
    extension: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "EXTENSION_PORT", extension.port)
    monkeypatch.delenv("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(tidegate.PasswordUnavailable):
        secrets.read(ARN)
    assert extension.requests == []
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    assert secrets.read(ARN).password == "hunter2"
