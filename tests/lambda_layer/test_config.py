"""Where settings come from, and what bad ones are answered with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tidegate
from tidegate.config import SETTINGS, Config, resolve
from tidegate.settings import Setting, Settings

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf"
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


@pytest.mark.parametrize("bad", ["hunter2\0hunter3", "hunter2\udcff"])
@pytest.mark.parametrize("name", ["host", "user", "password"])
def test_what_postgresql_cannot_be_sent_is_refused_without_being_shown(name: str, bad: str) -> None:
    """libpq would take a text up to its NUL; a variable that is not UTF-8 reaches Python with surrogates."""
    with pytest.raises(tidegate.ConfigurationError, match=f"argument {name} holds a NUL") as caught:
        resolve(REQUIRED | {name: bad}, {})
    with pytest.raises(tidegate.ConfigurationError, match=f"TIDEGATE_{name.upper()} holds a NUL"):
        resolve({key: value for key, value in REQUIRED.items() if key != name}, {f"TIDEGATE_{name.upper()}": bad})
    assert "hunter" not in str(caught.value)


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
        ("TIDEGATE_AUTH", "iam"),
        ("TIDEGATE_SECRET_ARN", "shop"),
        ("TIDEGATE_SECRET_ARN", "arn:aws:s3:::shop"),
        ("AWS_REGION", "Ireland"),
        ("TIDEGATE_PROXY_ID", "two words"),
        ("TIDEGATE_STATEMENT_DEADLINE", "perhaps"),
        ("TIDEGATE_CLOSE_ABOVE", "0"),
        ("TIDEGATE_CLOSE_ABOVE", "101"),
        ("TIDEGATE_RETRY_ATTEMPTS", "1.5"),
        ("TIDEGATE_RETRY_RATE", "-1"),
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


def test_every_setting_is_a_field_and_an_argument_and_a_row_of_the_reference() -> None:
    names = [setting.name for setting in SETTINGS]
    assert names == list(Config._fields)
    assert names == list(Settings.__annotations__)
    page = (Path(__file__).parents[2] / "docs/layer_configuration.md").read_text()
    rows = [
        f"| {', '.join(f'`{variable}`' for variable in setting.variables)} | {setting.meaning}"
        f" | {f'`{setting.default}`' if setting.default is not None else 'required' if setting.required else ''} |"
        for setting in SETTINGS
    ]
    assert "\n".join(rows) in page


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.name != "sslrootcert"])
def test_the_example_of_every_setting_is_a_good_one(setting: Setting) -> None:
    if setting.name == "secret_arn":
        settings: dict[str, object] = {"secret_arn": setting.example}
    elif setting.name == "proxy_id":
        settings = {**REQUIRED, "auth": "tidegate-iam", "region": "eu-west-1", "proxy_id": setting.example}
    elif setting.name == "auth":
        settings = {**REQUIRED, "auth": setting.example, "region": "eu-west-1"}
    else:
        settings = {**REQUIRED, setting.name: setting.example}
    assert getattr(resolve(settings, {}), setting.name) is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auth": "secret"}, "set TIDEGATE_SECRET_ARN"),
        ({"auth": "rds-iam"}, "set TIDEGATE_REGION"),
        ({"auth": "tidegate-iam"}, "set TIDEGATE_REGION"),
        ({"auth": "rds-iam", "region": "eu-west-1", "password": "hunter2"}, "argument password is set"),
        ({"auth": "password", "secret_arn": ARN}, "TIDEGATE_AUTH=secret"),
        ({"secret_arn": ARN, "password": "hunter2"}, "TIDEGATE_AUTH=password"),
        ({"auth": "rds-iam", "region": "eu-west-1", "proxy_id": "p"}, "TIDEGATE_AUTH=tidegate-iam"),
        ({"auth": "rds-iam", "region": "eu-west-1", "sslmode": "prefer"}, "TIDEGATE_SSLMODE=verify-full"),
        ({"auth": "tidegate-iam", "region": "eu-west-1", "sslmode": "disable"}, "TIDEGATE_SSLMODE=verify-full"),
        ({"retries": 3}, "there is no setting 'retries'"),
    ],
)
def test_contradictions_about_logging_in_are_refused_with_a_remedy(settings: dict[str, object], words: str) -> None:
    with pytest.raises(tidegate.ConfigurationError, match=words) as caught:
        resolve({**REQUIRED, **settings}, {})
    assert "hunter2" not in str(caught.value)


def test_a_token_may_go_to_this_machine_without_tls() -> None:
    for host in ("127.0.0.1", "localhost", "/run/postgresql"):
        settings = {**REQUIRED, "host": host, "auth": "rds-iam", "region": "eu-west-1", "sslmode": "disable"}
        assert resolve(settings, {}).sslmode == "disable"
    with pytest.raises(tidegate.ConfigurationError, match="contradicts auth=rds-iam"):
        resolve({**REQUIRED, "host": "127.example", "auth": "rds-iam", "region": "eu-west-1", "sslmode": "disable"}, {})


def test_a_secret_is_used_where_one_is_named_and_may_say_the_rest() -> None:
    config = resolve({}, {"TIDEGATE_SECRET_ARN": ARN, "AWS_REGION": "eu-west-1"})
    assert (config.auth, config.host, config.port, config.dbname, config.user) == ("secret", "", 0, "", "")
    assert resolve({}, {"TIDEGATE_SECRET_ARN": ARN, "PGHOST": "db.example", "PGPORT": "6432"}).port == 6432
