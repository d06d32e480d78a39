"""The function that prepares a database made by the app."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from types import ModuleType

import boto3
import psycopg
import pytest
from moto import mock_aws
from psycopg import sql
from tests.infra.conftest import ROOT
from tests.support.postgres import Database

FUNCTION = ROOT / "infra/tidegate_infra/app/setup_function/function.py"


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[ModuleType]:
    """The module, as Lambda would import it, with its own connection to this database."""
    owner = database.server.parameters(dbname=database.name)
    for name, value in {
        "TIDEGATE_HOST": owner["host"],
        "TIDEGATE_PORT": owner["port"],
        "TIDEGATE_DBNAME": owner["dbname"],
        "TIDEGATE_USER": owner["user"],
        "TIDEGATE_PASSWORD": owner.get("password", ""),
        "TIDEGATE_SSLMODE": "disable",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }.items():
        monkeypatch.setenv(name, str(value))
    with mock_aws():
        secret = json.dumps({"username": "orders", "password": "it's a secret"})
        arn = boto3.client("secretsmanager").create_secret(Name="orders", SecretString=secret)["ARN"]
        monkeypatch.setenv("USER_SECRET_ARN", arn)
        specification = importlib.util.spec_from_file_location("setup_function", FUNCTION)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, "setup_function", module)
        specification.loader.exec_module(module)
        yield module
        module.db.close()
    with psycopg.connect(**owner, autocommit=True) as conn:
        conn.execute("DROP OWNED BY orders")
        conn.execute("DROP ROLE orders")


def test_it_makes_user_and_table_and_may_run_again(function: ModuleType, database: Database) -> None:
    for _ in range(2):
        assert function.handler({}, None) == {"prepared": "orders"}
    with psycopg.connect(**database.server.parameters(dbname=database.name)) as conn:
        stored = conn.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'orders'").fetchone()
        assert stored is not None
        assert stored[0].startswith("SCRAM-SHA-256$")
        conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier("orders")))
        assert conn.execute("SELECT count(*) FROM counter").fetchone() == (1000,)
        conn.execute("UPDATE counter SET value = value + 1 WHERE id = 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("DROP TABLE counter")
