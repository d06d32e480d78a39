"""Where settings come from, and what bad ones are answered with."""

from __future__ import annotations

import os

import pytest

import tidegate
from tidegate.config import SETTINGS, Config, resolve
from tidegate.settings import Settings

REQUIRED = {"host": "db.example", "dbname": "shop", "user": "orders"}


def test_argument_goes_before_own_variable_before_libpq_variable_before_default() -> None:
    environment = {
        "TIDEGATE_HOST": "own",
        "PGHOST": "libpq",
        "PGDATABASE": "shop",
        "PGUSER": "orders",
        "PGPORT": "6432",
    }
    assert resolve({"host": "explicit"}, environment).host == "explicit"
    assert resolve({}, environment).host == "own"
    assert resolve({}, environment | {"TIDEGATE_HOST": ""}).host == "libpq"
    assert resolve({}, environment).port == 6432
    assert resolve({"port": None}, environment | {"PGPORT": ""}).port == 5432


def test_tls_is_verified_unless_that_is_turned_off() -> None:
    assert resolve(REQUIRED, {}).sslmode == "verify-full"
    assert resolve(REQUIRED, {"PGSSLMODE": "disable"}).sslmode == "disable"


def test_the_function_name_shows_in_pg_stat_activity_unless_another_name_is_set() -> None:
    assert resolve(REQUIRED, {"AWS_LAMBDA_FUNCTION_NAME": "orders-api"}).application_name == "orders-api"
    named = {"AWS_LAMBDA_FUNCTION_NAME": "orders-api", "PGAPPNAME": "other"}
    assert resolve(REQUIRED, named).application_name == "other"
    assert resolve(REQUIRED, {}).application_name == "tidegate"


@pytest.mark.parametrize("name", ["host", "dbname", "user"])
def test_what_is_missing_is_named_with_an_example(name: str) -> None:
    setting = next(each for each in SETTINGS if each.name == name)
    with pytest.raises(tidegate.ConfigurationError) as caught:
        resolve({key: value for key, value in REQUIRED.items() if key != name}, {})
    for word in (*setting.variables, setting.example):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIDEGATE_PORT", "0"),
        ("PGPORT", "65536"),
        ("PGPORT", "54x2"),
        ("PGPORT", "²"),
        ("PGSSLMODE", "on"),
        ("TIDEGATE_CONNECT_TIMEOUT", "0"),
        ("TIDEGATE_CONNECT_TIMEOUT", "soon"),
        ("TIDEGATE_INIT_TIMEOUT", "inf"),
        ("TIDEGATE_IDLE_CHECK", "-1"),
        ("TIDEGATE_MARGIN", "nan"),
        ("TIDEGATE_HOST", "one,two"),
    ],
)
def test_a_bad_value_is_named_with_its_variable_and_an_example(variable: str, value: str) -> None:
    environment = {"PGHOST": "db.example", "PGDATABASE": "shop", "PGUSER": "orders", variable: value}
    setting = next(each for each in SETTINGS if variable in each.variables)
    with pytest.raises(tidegate.ConfigurationError) as caught:
        resolve({}, environment)
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)
    assert setting.example in str(caught.value)


def test_a_bad_argument_is_named_as_one() -> None:
    with pytest.raises(tidegate.ConfigurationError, match="argument port is '70000'"):
        resolve({**REQUIRED, "port": 70000}, {})


@pytest.mark.parametrize(
    ("sslmode", "sslrootcert"), [("disable", "/roots.pem"), ("require", "system"), ("verify-ca", None)]
)
def test_contradictions_about_tls_are_refused(sslmode: str, sslrootcert: str | None) -> None:
    with pytest.raises(tidegate.ConfigurationError, match="TIDEGATE_SSL"):
        resolve({**REQUIRED, "sslmode": sslmode, "sslrootcert": sslrootcert}, {})


def test_bad_configuration_is_raised_by_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PG", "TIDEGATE_"))]:
        monkeypatch.delenv(name)
    with pytest.raises(tidegate.ConfigurationError, match="TIDEGATE_HOST"):
        tidegate.connect()


def test_the_password_is_not_in_the_representation_of_anything() -> None:
    config = resolve({**REQUIRED, "password": "hunter2"}, {})
    assert config.password == "hunter2"
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(tidegate.Database(config))


def test_every_setting_is_a_field_and_an_argument_and_a_row_of_the_readme() -> None:
    names = [setting.name for setting in SETTINGS]
    assert names == list(Config._fields)
    assert names == list(Settings.__annotations__)
