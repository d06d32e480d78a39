"""The file, the environment, and both."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.proxy.settings.conftest import SERVER, Load

from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, Settings, load_settings
from tidegate_proxy.settings.effective import pool_limits, shared_limits

VERIFIER = f"SCRAM-SHA-256$4096:{'c2FsdHNhbHRzYWx0c2FsdA=='}${'A' * 43}=:{'B' * 42}A="


def test_one_database_is_all_that_must_be_said(load: Load) -> None:
    settings = load(SERVER)
    database = settings.databases["app"]
    assert (settings.listen_host, settings.listen_port, settings.default_pool_size) == ("127.0.0.1", 6432, 20)
    assert (database.host, database.port, database.dbname, database.tls) == (
        "db.example.com",
        5432,
        "app",
        "verify-full",
    )
    assert settings.client_tls == "allow"


def test_durations_are_floats_whether_given_or_default(load: Load) -> None:
    settings = load("connection_borrow_timeout = 3\n" + SERVER)
    assert [type(value) for value in (settings.connection_borrow_timeout, settings.drain_timeout)] == [float, float]


def test_the_environment_alone_is_enough() -> None:
    settings = load_settings(
        None,
        {
            "TIDEGATE_LISTEN_PORT": "0",
            "TIDEGATE_CONNECTION_BORROW_TIMEOUT": "0.5",
            "TIDEGATE_CHECK_TARGETS": "False",
            "TIDEGATE_DATABASES__APP__HOST": "db",
            "TIDEGATE_USERS__APP__PASSWORD": "1234",
            "HOME": "/",
        },
    )
    assert (settings.listen_port, settings.connection_borrow_timeout, settings.check_targets) == (0, 0.5, False)
    password = settings.users["app"].password
    assert password is not None
    assert password.get_secret_value() == "1234"


def test_the_environment_wins_key_by_key_and_leaves_the_rest_of_the_file(load: Load) -> None:
    settings = load(
        "listen_port = 1\ndefault_pool_size = 2\n"
        '[databases.app]\nhost = "file"\nport = 3\n[databases.other]\nhost = "o"\n',
        {
            "TIDEGATE_LISTEN_PORT": "4",
            "TIDEGATE_DATABASES__APP__HOST": "variable",
            "TIDEGATE_DATABASES__NEW__HOST": "n",
        },
    )
    assert (settings.listen_port, settings.default_pool_size) == (4, 2)
    assert (settings.databases["app"].host, settings.databases["app"].port) == ("variable", 3)
    assert set(settings.databases) == {"app", "other", "new"}


def test_json_names_what_no_variable_can_and_the_more_precise_variable_wins(load: Load) -> None:
    settings = load(
        SERVER,
        {
            "TIDEGATE_DATABASES": '{"My-App": {"host": "json"}, "app": {"host": "json", "port": 7}}',
            "TIDEGATE_DATABASES__APP__HOST": "precise",
        },
    )
    assert settings.databases["My-App"].host == "json"
    assert (settings.databases["app"].host, settings.databases["app"].port) == ("precise", 7)


def test_paths_in_the_file_are_relative_to_its_folder_and_in_a_variable_to_the_working_directory(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "app.password").write_text("one\n")
    (tmp_path / "var.password").write_text("two")
    settings = load(
        SERVER + '[users.app]\npassword_file = "app.password"\n',
        {"TIDEGATE_USERS__VAR__PASSWORD_FILE": os.path.relpath(tmp_path / "var.password")},
    )
    assert settings.users["app"].password_file == tmp_path / "app.password"
    assert {name: user.password and user.password.get_secret_value() for name, user in settings.users.items()} == {
        "app": "one",
        "var": "two",
    }


def test_a_verifier_takes_the_place_of_a_password(load: Load) -> None:
    user = load(SERVER + f'[users.app]\nverifier = "{VERIFIER}"\n').users["app"]
    assert user.password is None
    assert user.verifier is not None
    assert user.verifier.get_secret_value() == VERIFIER


def test_a_database_is_found_by_its_name_then_by_the_wildcard(load: Load) -> None:
    settings = load(SERVER + '[databases."*"]\nhost = "any"\n')
    found = [settings.database(name) for name in ("app", "other", "*")]
    assert [(database.host, database.dbname) for database in found if database] == [
        ("db.example.com", "app"),
        ("any", "other"),
        ("any", "*"),
    ]
    assert load(SERVER).database("other") is None


def test_a_wildcard_with_a_database_leads_every_name_there(load: Load) -> None:
    database = load('[databases."*"]\nhost = "any"\ndbname = "one"\n').database("other")
    assert database is not None
    assert database.dbname == "one"


def test_a_database_has_its_own_pool_size_or_the_general_one(load: Load) -> None:
    settings = load('default_pool_size = 3\n[databases.a]\nhost = "h"\n[databases.b]\nhost = "h"\npool_size = 4\n')
    assert [pool_limits(settings, settings.databases[name], "u").pool_size for name in "ab"] == [3, 4]


def test_what_a_user_has_comes_before_what_its_database_has(load: Load) -> None:
    settings = load(
        'query_timeout = 9\n[databases.a]\nhost = "h"\npool_size = 4\nconnection_borrow_timeout = 3\n'
        "max_db_connections = 6\n"
        '[users.u]\npassword = "p"\npool_size = 5\nquery_timeout = 1\nmax_user_connections = 7\n'
    )
    database = settings.databases["a"]
    limits, others = pool_limits(settings, database, "u"), pool_limits(settings, database, "other")
    assert (limits.pool_size, limits.query_timeout, limits.connection_borrow_timeout) == (5, 1, 3)
    assert (others.pool_size, others.query_timeout, others.connection_borrow_timeout) == (4, 9, 3)
    shared = shared_limits(settings, "a", "u")
    assert (shared.max_db_connections, shared.max_user_connections) == (6, 7)
    assert shared_limits(settings, "a", "other").max_user_connections == 0


def test_a_setting_may_go_by_its_other_name(load: Load) -> None:
    settings = load(
        'query_wait_timeout = 3\n[databases.a]\nhost = "h"\nconnect_query = "SELECT 1"\n',
        {"TIDEGATE_CLIENT_IDLE_TIMEOUT": "7", "TIDEGATE_DATABASES__A__QUERY_WAIT_TIMEOUT": "4"},
    )
    assert (settings.connection_borrow_timeout, settings.idle_client_timeout) == (3, 7)
    assert (settings.databases["a"].init_query, settings.databases["a"].connection_borrow_timeout) == ("SELECT 1", 4)


def test_the_environment_wins_by_either_name(load: Load) -> None:
    settings = load("query_wait_timeout = 3\n" + SERVER, {"TIDEGATE_CONNECTION_BORROW_TIMEOUT": "4"})
    assert settings.connection_borrow_timeout == 4


def test_both_names_of_a_setting_must_agree(load: Load) -> None:
    assert load("query_wait_timeout = 3\nconnection_borrow_timeout = 3\n" + SERVER).connection_borrow_timeout == 3
    with pytest.raises(ConfigurationError, match="query_wait_timeout and connection_borrow_timeout are the same"):
        load("query_wait_timeout = 3\nconnection_borrow_timeout = 4\n" + SERVER)
    with pytest.raises(ConfigurationError, match="are the same: keep one of them"):
        load(SERVER, {"TIDEGATE_QUERY_WAIT_TIMEOUT": "1", "TIDEGATE_CONNECTION_BORROW_TIMEOUT": "2"})
    with pytest.raises(ConfigurationError, match=r": query_wait_timeout: must be a number of seconds"):
        load("query_wait_timeout = -1\n" + SERVER)


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_tls_is_not_demanded_on_loopback(load: Load, host: str) -> None:
    assert load(f'listen_host = "{host}"\n' + SERVER).client_tls == "allow"


def test_settings_cannot_be_changed(load: Load) -> None:
    settings = load(SERVER)
    with pytest.raises(ValidationError, match="frozen"):
        settings.listen_port = 1  # type: ignore[misc]


def test_settings_can_be_made_in_code_and_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_LISTEN_PORT", "1")
    settings = Settings(databases={"app": DatabaseSettings(host="h")})
    assert settings.listen_port == 6432
    assert settings.databases["app"].dbname == "app"
    assert pickle.loads(pickle.dumps(settings)) == settings
