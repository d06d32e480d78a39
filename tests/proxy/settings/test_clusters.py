"""Settings of clusters: further endpoints, readers under a second name, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate_proxy.settings import ConfigurationError, Settings, load_settings

APP = '[databases.app]\nhost = "db"\ntls = "disable"\npool_size = 7\n'


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    return load_settings(file, {})


def test_readers_have_everything_from_their_database_but_sizes(tmp_path: Path) -> None:
    settings = load(
        tmp_path, APP + '[databases.app_ro]\nreaders_of = "app"\npool_size = 3\nreader_fallback = "refuse"\n'
    )
    app, readers = settings.databases["app"], settings.databases["app_ro"]
    assert (readers.host, readers.tls, readers.dbname, readers.role) == ("db", "disable", "app", "reader")
    assert (app.pool_size, readers.pool_size, readers.reader_fallback) == (7, 3, "refuse")
    assert (app.dbname, app.role) == ("app", "writer")


def test_endpoints_from_the_environment(tmp_path: Path) -> None:
    environment = {"TIDEGATE_DATABASES__APP__HOST": "a", "TIDEGATE_DATABASES__APP__ENDPOINTS": "b, c:5433"}
    assert load_settings(None, environment).databases["app"].endpoints == ("b", "c:5433")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (APP + '[databases.ro]\nreaders_of = "ap"\n', 'databases: "ro" has readers_of = "ap", which is not the name'),
        (APP + '[databases.ro]\nreaders_of = "app"\nhost = "x"\n', "remove host"),
        (APP + '[databases.ro]\nreaders_of = "app"\nuser = "x"\n', "remove user"),
        (APP + 'endpoints = ["postgres://db2"]\n', "must be host names or IP addresses"),
        (APP + 'endpoints = ["db2:0"]\n', "must be host names or IP addresses"),
        (APP + 'aurora_instances = "db.example.com"\n', r"with one \? in place of an instance's name"),
        (APP + 'role = "primary"\n', 'role: must be one of "writer", "reader", "any"'),
        ('dns_servers = ["dns.example.com"]\n' + APP, "must be IP addresses"),
        ("server_tcp_user_timeout = -1\n" + APP, "server_tcp_user_timeout: must be a number of seconds from 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        load(tmp_path, text)
    assert "\n" not in str(refused.value)
