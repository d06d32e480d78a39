"""Logging in to a real server with what was kept, with what is fresh, and after a rotation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import psycopg
import pytest
from psycopg import sql
from tests.lambda_layer.helpers import backend_of, connected, terminate
from tests.lambda_layer.identity.services import moto
from tests.support.postgres import Database
from tests.support.relay import Relay

import tidegate
from tidegate import auth
from tidegate.credentials import Credentials

KEYS = Credentials("AKIDEXAMPLE", "secret key", "session token")


def set_password(database: Database, password: str) -> None:
    with database.server.connect() as admin:
        role, text = sql.Identifier(database.user), sql.Literal(password)
        admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, text))


# -- secrets ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def manager(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws)
    client = boto3.client("secretsmanager", region_name="eu-west-1")
    yield client
    client.close()


def content(database: Database, password: str) -> str:
    parameters = database.parameters
    return json.dumps(
        {
            "engine": "postgres",
            "host": parameters["host"],
            "port": parameters["port"],
            "dbname": database.name,
            "username": database.user,
            "password": password,
        }
    )


def test_a_rotation_is_not_noticed(database: Database, manager: Any) -> None:
    arn = manager.create_secret(Name=database.name, SecretString=content(database, database.password))["ARN"]
    settings = dict.fromkeys(database.parameters)
    with connected(database, **settings, secret_arn=arn) as db:
        first = backend_of(db)
        set_password(database, "rotated")
        manager.put_secret_value(SecretId=arn, SecretString=content(database, "rotated"))
        assert backend_of(db) == first, "an open connection does not need the new password"
        terminate(database, first)
        assert backend_of(db) != first


def test_a_secret_that_is_not_right_after_reading_it_again_is_an_error_at_once(
    database: Database, manager: Any
) -> None:
    arn = manager.create_secret(Name=database.name, SecretString=content(database, "wrong"))["ARN"]
    settings = dict.fromkeys(database.parameters)
    with connected(database, **settings, secret_arn=arn) as db:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed") as caught, db.connection():
            pass
        assert caught.value.sqlstate == "28P01"
        manager.put_secret_value(SecretId=arn, SecretString=content(database, database.password))
        assert backend_of(db), "the next use reads it again"


def test_a_secret_that_cannot_be_read_fails_the_invocation_and_not_init(database: Database, manager: Any) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:absent-AbCdEf"
    settings = dict.fromkeys(database.parameters)
    with (
        connected(database, **settings, secret_arn=arn) as db,
        pytest.raises(tidegate.PasswordUnavailable, match="absent-AbCdEf"),
        db.connection(),
    ):
        pass


# -- tokens -------------------------------------------------------------------------------------------------------


class Clock:
    """time.time(), in the hands of a test, so that it knows which token is signed next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_790_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(KEYS.token))
    return Clock(monkeypatch)


@pytest.fixture
def relay(database: Database, relay_to: Callable[[int], Relay]) -> Relay:
    """Counts the attempts to connect."""
    return relay_to(int(str(database.parameters["port"])))


def accept_token(database: Database, clock: Clock, port: int) -> None:
    """Have the server accept the token that is signed at this moment, and no other."""
    token = auth.generate_rds_token("127.0.0.1", port, database.user, "eu-west-1", credentials=KEYS, now=clock.now)
    set_password(database, token)


def iam(relay: Relay) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": relay.port, "password": None, "auth": "rds-iam", "region": "eu-west-1"}


def test_a_kept_token_that_is_refused_is_replaced_by_a_fresh_one(
    database: Database, relay: Relay, clock: Clock
) -> None:
    accept_token(database, clock, relay.port)
    with connected(database, **iam(relay)) as db:
        first = backend_of(db)
        clock.now += 10
        accept_token(database, clock, relay.port)
        terminate(database, first)
        assert backend_of(db) != first
        assert relay.accepted == 3, "INIT, the kept token, and the fresh one"


def test_a_fresh_token_that_is_refused_is_an_error_without_another_attempt(
    database: Database, relay: Relay, clock: Clock
) -> None:
    with connected(database, **iam(relay)) as db:
        for attempts in (2, 3):
            with pytest.raises(psycopg.OperationalError, match="authentication failed") as caught, db.connection():
                pass
            assert caught.value.sqlstate == "28P01"
            assert relay.accepted == attempts, "INIT, and one for each use"
