"""What is handed out to log in with: fresh or cached, and what a refusal leads to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from tests.lambda_layer.identity.services import Service, always

import tidegate
from tidegate import auth, passwords
from tidegate.config import Config, resolve
from tidegate.credentials import Credentials
from tidegate.passwords import password_source

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf"
KEYS = Credentials("AKIDEXAMPLE", "secret key", "session token")


def config(**settings: object) -> Config:
    return resolve({"host": "db.example", "dbname": "shop", "user": "orders", "region": "eu-west-1", **settings}, {})


class Clock:
    """time.time(), in the hands of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_790_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(KEYS.token))
    return Clock(monkeypatch)


def test_a_password_is_handed_out_as_configured_and_a_refusal_is_final() -> None:
    source = password_source(config(password="hunter2"))
    assert source.password() == "hunter2"
    assert not source.rejected()
    assert password_source(config()).password() is None


def test_an_rds_token_is_for_the_host_port_and_user_of_the_configuration(clock: Clock) -> None:
    token = password_source(config(auth="rds-iam", port=6543)).password()
    assert token == auth.generate_rds_token("db.example", 6543, "orders", "eu-west-1", credentials=KEYS, now=clock.now)


@pytest.mark.parametrize(("settings", "identifier"), [({}, "db.example"), ({"proxy_id": "shop-proxy"}, "shop-proxy")])
def test_a_tidegate_token_is_bound_to_the_proxy_or_else_to_its_host(
    clock: Clock, settings: dict[str, str], identifier: str
) -> None:
    token = password_source(config(auth="tidegate-iam", **settings)).password()
    assert token == auth.generate_token(identifier, "eu-west-1", credentials=KEYS, now=clock.now)


def test_a_token_is_kept_until_shortly_before_it_ends(clock: Clock) -> None:
    source = password_source(config(auth="rds-iam"))
    first = source.password()
    clock.now += auth.TOKEN_LIFE - passwords.EXPIRY_MARGIN - 1
    assert source.password() == first
    clock.now += 1
    assert source.password() != first


def test_a_token_ends_with_the_credentials_that_signed_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock.now + 300))
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", moment)
    source = password_source(config(auth="rds-iam"))
    first = source.password()
    clock.now += 300 - passwords.EXPIRY_MARGIN - 1
    assert source.password() == first
    clock.now += 1
    assert source.password() != first


def test_a_refused_token_from_the_cache_is_replaced_once_and_a_refused_fresh_one_is_not(clock: Clock) -> None:
    source = password_source(config(auth="rds-iam"))
    first = source.password()
    assert not source.rejected(), "a fresh token was refused: another one would be, too"
    source.password()
    clock.now += 1
    source.password()
    assert source.rejected(), "what was refused came from the cache"
    assert source.password() != first
    assert not source.rejected()


def test_after_a_restore_nothing_of_the_snapshot_is_used(clock: Clock) -> None:
    source = password_source(config(auth="rds-iam"))
    first = source.password()
    clock.now += 1
    source.forget()
    assert source.password() != first


def test_credentials_are_asked_for_again_with_each_new_token(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    numbers = iter(range(1, 9))

    def answer(*_: object) -> tuple[int, bytes]:
        found = {"AccessKeyId": f"ASIA{next(numbers)}", "SecretAccessKey": "secret", "Token": "token"}
        return 200, json.dumps(found).encode()

    with Service(answer) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        source = password_source(config(auth="rds-iam"))
        assert "Credential=ASIA1%2F" in str(source.password())
        assert "Credential=ASIA1%2F" in str(source.password())
        source.forget()
        assert "Credential=ASIA2%2F" in str(source.password())


def test_the_token_is_not_in_the_representation_of_anything(clock: Clock) -> None:
    completed = password_source(config(auth="rds-iam")).complete()
    assert completed.password
    assert completed.password not in repr(completed)
    assert str(KEYS.token) not in repr(completed)


# -- secrets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    content = {"username": "secret_user", "password": "hunter2", "host": "secret.example", "port": 5433, "dbname": "s"}
    with Service(always(200, {"SecretString": json.dumps(content)})) as service:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
        monkeypatch.setenv("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT", str(service.port))
        yield service


def test_a_secret_says_what_no_setting_says(extension: Service) -> None:
    source = password_source(resolve({"secret_arn": ARN}, {}))
    completed = source.complete()
    assert (completed.host, completed.port, completed.dbname) == ("secret.example", 5433, "s")
    assert (completed.user, completed.password) == ("secret_user", "hunter2")
    assert len(extension.requests) == 1
    assert source.complete() is completed
    assert len(extension.requests) == 1, "what was read is kept"


def test_what_settings_say_goes_before_the_secret(extension: Service) -> None:
    settings = {"secret_arn": ARN, "host": "proxy.example", "port": 6432, "dbname": "shop", "user": "orders"}
    completed = password_source(resolve(settings, {})).complete()
    assert (completed.host, completed.port, completed.dbname) == ("proxy.example", 6432, "shop")
    assert (completed.user, completed.password) == ("orders", "hunter2")


def test_what_nobody_says_is_named_with_its_variable(extension: Service) -> None:
    extension.answer = always(200, {"SecretString": '{"username": "orders", "password": "hunter2"}'})
    with pytest.raises(tidegate.ConfigurationError, match="set TIDEGATE_HOST") as caught:
        password_source(resolve({"secret_arn": ARN}, {})).complete()
    assert ARN in str(caught.value)
    completed = password_source(resolve({"secret_arn": ARN, "host": "db.example", "dbname": "shop"}, {})).complete()
    assert completed.port == 5432


def test_the_host_of_a_secret_chooses_the_certificates(extension: Service) -> None:
    host = "shop.cluster-c0ffee.eu-west-1.rds.amazonaws.com"
    content = {"username": "orders", "password": "hunter2", "host": host, "dbname": "shop"}
    extension.answer = always(200, {"SecretString": json.dumps(content)})
    by_secret = password_source(resolve({"secret_arn": ARN}, {})).complete()
    by_setting = resolve({"host": host, "dbname": "shop", "user": "orders"}, {})
    assert by_secret.sslrootcert == by_setting.sslrootcert
