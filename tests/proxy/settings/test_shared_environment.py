"""The layer and the proxy share a prefix of environment variables, and neither trips over the other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.config import SETTINGS
from tidegate_proxy.settings import ConfigurationError, load_settings
from tidegate_proxy.settings.environment import OF_THE_LAYER

MINIMAL = {
    "TIDEGATE_DATABASES__APP__HOST": "db",
    "TIDEGATE_USERS__APP__PASSWORD": "x",
    "TIDEGATE_USERS__ADMIN__PASSWORD": "y",
}


def test_the_layers_variables_say_nothing_to_the_proxy() -> None:
    layers = {name for setting in SETTINGS for name in setting.variables if name.startswith("TIDEGATE_")}
    assert layers == OF_THE_LAYER
    settings = load_settings(None, MINIMAL | dict.fromkeys(layers, "anything"))
    assert settings.listen_port == 6432


def test_a_list_of_users_from_the_environment() -> None:
    assert load_settings(None, MINIMAL | {"TIDEGATE_ADMIN_USERS": "app, admin"}).admin_users == ("app", "admin")


def test_a_console_user_must_be_a_user(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('admin_users = ["boss"]\n[databases.app]\nhost = "db"\n')
    with pytest.raises(ConfigurationError, match='admin_users names "boss", who has no entry in users'):
        load_settings(file, {})


def test_a_list_that_is_none_says_what_it_wants(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('admin_users = "admin"\n[databases.app]\nhost = "db"\n')
    with pytest.raises(ConfigurationError, match="admin_users: must be a list of names"):
        load_settings(file, {})
